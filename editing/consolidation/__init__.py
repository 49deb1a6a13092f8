"""Consolidation: all live facts, trained from a joint solution into more of the network."""
