"""What is written: the table of facts, weights that follow from it, files."""
