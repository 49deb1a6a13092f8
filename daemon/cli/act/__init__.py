"""Commands that post corrections, ask for an operation, or write a version out."""
