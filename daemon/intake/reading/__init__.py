"""Reads plain sentences into corrections. Local: it needs no model, no network, and only the standard library."""
