"""Batch norm, activation and the mean over the image."""
