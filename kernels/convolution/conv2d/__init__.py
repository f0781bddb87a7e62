"""A convolution that also makes the statistics for the batch norm after it."""
