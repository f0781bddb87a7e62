"""The former names of what are options now. Each calls the op that it varied, and warns.

``…_stats`` returns mean and biased variance [C] of the result too, computed from it with a gradient; ``…_for_norm``
the statistics for the batch norm after it, ``next_norm``; ``fork_…`` its input. ``statistics=`` takes [3, C] only.
"""

import warnings
from collections.abc import Callable
from typing import Any

from .batch_norm.arguments import statistics_dtype
from .batch_norm.batch_norm_act.op import batch_norm_act
from .convolution.bn_act_conv2d.op import bn_act_conv2d
from .convolution.conv2d.op import conv2d
from .shakedrop.shakedrop_bn_shortcut.op import shakedrop_bn_shortcut


def _former(name: str, op: Callable[..., Any], options: str, **fixed: Any) -> Callable[..., tuple[Any, ...]]:
    """The function of a former name: ``op`` with ``options``, of which the caller gives those that are not fixed."""
    call = f"{op.__name__}(…, {options})"

    def function(*args: Any, **settings: Any) -> tuple[Any, ...]:
        warnings.warn(f"{name} is deprecated; call {call}", DeprecationWarning, stacklevel=2)
        results = op(*args, **settings, **fixed)
        results = results if isinstance(results, tuple) else (results,)
        if not name.endswith("_stats"):
            return results
        y = results[-1].to(statistics_dtype(results[-1]))
        return *results, y.mean(dim=(0, 2, 3)), y.var(dim=(0, 2, 3), correction=0)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"``{call}``."
    return function


_FORK, _BOTH = "return_input=True", "return_input=True, next_norm=…"
fork_batch_norm_act = _former("fork_batch_norm_act", batch_norm_act, _FORK, return_input=True)
conv2d_stats = _former("conv2d_stats", conv2d, "next_norm=…")
bn_act_conv2d_stats = _former("bn_act_conv2d_stats", bn_act_conv2d, "next_norm=…")
bn_act_conv2d_for_norm = _former("bn_act_conv2d_for_norm", bn_act_conv2d, "next_norm=…")
fork_bn_act_conv2d_stats = _former("fork_bn_act_conv2d_stats", bn_act_conv2d, _BOTH, return_input=True)
fork_bn_act_conv2d_for_norm = _former("fork_bn_act_conv2d_for_norm", bn_act_conv2d, _BOTH, return_input=True)
shakedrop_bn_shortcut_stats = _former("shakedrop_bn_shortcut_stats", shakedrop_bn_shortcut, "next_norm=…")
shakedrop_bn_shortcut_for_norm = _former("shakedrop_bn_shortcut_for_norm", shakedrop_bn_shortcut, "next_norm=…")
