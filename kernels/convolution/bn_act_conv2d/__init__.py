"""Batch norm, activation, convolution: the unit of pre-activation networks."""
