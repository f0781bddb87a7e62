"""Poolings that follow a batch norm and its activation."""
