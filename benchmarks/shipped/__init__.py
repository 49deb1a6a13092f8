"""The shipped applier, ladder and guard at work in a state directory of their own."""
