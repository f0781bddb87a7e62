"""Dropout whose draws are a function of seed, step, layer and sample."""
