"""Weights: which there are, where they come from, how they become a model."""
