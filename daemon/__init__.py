"""The daemon acts: it owns the ledger, the queue, the version store, publishing, the HTTP API and the command line."""
