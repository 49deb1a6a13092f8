"""Commands that run something, or check whether it could run."""
