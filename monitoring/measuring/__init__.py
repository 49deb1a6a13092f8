"""Measures on a model: weights, activations, behaviour, and the baseline of all."""
