"""Reads plain sentences into corrections, by a lexicon of relations; it needs no model and no network."""
