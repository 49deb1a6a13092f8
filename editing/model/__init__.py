"""The model and its parts: families, tokens, forward passes, what layers hold."""
