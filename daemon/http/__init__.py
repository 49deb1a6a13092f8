"""The HTTP API, the status page, and their client. No torch."""
