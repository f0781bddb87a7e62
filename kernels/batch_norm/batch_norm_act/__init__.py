"""Batch norm with residual and activation, training and eval."""
