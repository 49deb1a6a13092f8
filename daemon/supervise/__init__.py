"""Starts processes, watches them, and ends them."""
