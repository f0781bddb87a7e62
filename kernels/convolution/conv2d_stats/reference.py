"""Convolution and its output's statistics in plain torch: the truth that the kernels are tested against."""

import torch.nn.functional as F
from torch import Tensor

from ..arguments import statistics_dtype


def conv2d_stats_reference(
    x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """y, mean and biased variance; arguments and results are those of ``conv2d_stats``. Nothing is checked."""
    y = F.conv2d(x, weight, stride=stride, padding=padding)
    wide = y.to(statistics_dtype(x))
    return y, wide.mean(dim=(0, 2, 3)), wide.var(dim=(0, 2, 3), correction=0)
