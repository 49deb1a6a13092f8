"""Measures and judges edited models; never acts. Importing this package loads no torch."""
