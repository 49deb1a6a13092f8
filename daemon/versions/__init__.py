"""Versions on disk: their format, the store, exports, comparisons."""
