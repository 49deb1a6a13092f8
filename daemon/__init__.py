"""The daemon acts: ledger, queue, version store, publishing, HTTP API and command line."""
