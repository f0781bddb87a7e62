"""Convolution, batch norm, activation: the unit of post-activation networks."""
