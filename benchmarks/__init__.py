"""Reproducible measurements of factd: speed, horizon, collapse; with the published procedure beside it."""
