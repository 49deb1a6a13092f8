"""`factd demo`."""
