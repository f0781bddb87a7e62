"""Batch norm, activation and 2×2 max-pooling."""
