"""Activations to points: sample, reduce, fit, and place every row by itself."""
