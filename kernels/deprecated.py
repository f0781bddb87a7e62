"""The former names of what are options now. Each calls the op that it varied, and warns.

``…_stats`` returns mean and biased variance [C] of the result too, computed from it with a gradient; ``…_for_norm``
the statistics for the batch norm after it, ``next_norm``; ``fork_…`` its input. ``statistics=`` takes [3, C] only.
"""

import warnings
from typing import Any

from torch import Tensor

from .batch_norm.arguments import statistics_dtype
from .batch_norm.batch_norm_act import batch_norm_act
from .convolution.bn_act_conv2d import bn_act_conv2d
from .convolution.conv2d import conv2d
from .shakedrop.shakedrop_bn_shortcut import shakedrop_bn_shortcut


def fork_batch_norm_act(*args: Any, **settings: Any) -> tuple[Tensor, Tensor]:
    """``batch_norm_act(…, return_input=True)``."""
    _warn("fork_batch_norm_act", "batch_norm_act(…, return_input=True)")
    x, y = batch_norm_act(*args, **settings, return_input=True)
    return x, y


def conv2d_stats(*args: Any, **settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    """``conv2d(…)``, and mean and variance of its result."""
    _warn("conv2d_stats", "conv2d(…, next_norm=…)")
    return _with_moments(conv2d(*args, **settings))


def bn_act_conv2d_stats(*args: Any, **settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    """``bn_act_conv2d(…)``, and mean and variance of its result."""
    _warn("bn_act_conv2d_stats", "bn_act_conv2d(…, next_norm=…)")
    return _with_moments(bn_act_conv2d(*args, **settings))


def bn_act_conv2d_for_norm(*args: Any, **settings: Any) -> tuple[Tensor, Tensor | None]:
    """``bn_act_conv2d(…, next_norm=…)``."""
    _warn("bn_act_conv2d_for_norm", "bn_act_conv2d(…, next_norm=…)")
    y, statistics = bn_act_conv2d(*args, **settings)
    return y, statistics


def fork_bn_act_conv2d_stats(*args: Any, **settings: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``bn_act_conv2d(…, return_input=True)``, and mean and variance of its result."""
    _warn("fork_bn_act_conv2d_stats", "bn_act_conv2d(…, return_input=True, next_norm=…)")
    x, y = bn_act_conv2d(*args, **settings, return_input=True)
    return x, *_with_moments(y)


def fork_bn_act_conv2d_for_norm(*args: Any, **settings: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """``bn_act_conv2d(…, return_input=True, next_norm=…)``."""
    _warn("fork_bn_act_conv2d_for_norm", "bn_act_conv2d(…, return_input=True, next_norm=…)")
    x, y, statistics = bn_act_conv2d(*args, **settings, return_input=True)
    return x, y, statistics


def shakedrop_bn_shortcut_stats(*args: Any, **settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    """``shakedrop_bn_shortcut(…)``, and mean and variance of its result."""
    _warn("shakedrop_bn_shortcut_stats", "shakedrop_bn_shortcut(…, next_norm=…)")
    return _with_moments(shakedrop_bn_shortcut(*args, **settings))


def shakedrop_bn_shortcut_for_norm(*args: Any, **settings: Any) -> tuple[Tensor, Tensor | None]:
    """``shakedrop_bn_shortcut(…, next_norm=…)``."""
    _warn("shakedrop_bn_shortcut_for_norm", "shakedrop_bn_shortcut(…, next_norm=…)")
    y, statistics = shakedrop_bn_shortcut(*args, **settings)
    return y, statistics


def _warn(name: str, instead: str) -> None:
    warnings.warn(f"{name} is deprecated; call {instead}", DeprecationWarning, stacklevel=3)


def _with_moments(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y, and mean and biased variance of its channels."""
    wide = y.to(statistics_dtype(y))
    return y, wide.mean(dim=(0, 2, 3)), wide.var(dim=(0, 2, 3), correction=0)
