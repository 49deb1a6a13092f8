"""`factd bench`."""
