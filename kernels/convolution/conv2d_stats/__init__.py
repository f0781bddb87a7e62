"""A convolution that also returns its output's statistics."""

from .op import conv2d_stats

__all__ = ["conv2d_stats"]
