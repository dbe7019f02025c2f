"""Quantising a model to integers whose results are equal on every processor."""
