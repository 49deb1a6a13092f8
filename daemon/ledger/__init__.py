"""The durable record of corrections, versions and operations, and the only truth."""
