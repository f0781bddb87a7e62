"""``flat_optimizer``: the torch op behind all flat steps, and its checks.

One op with the rule as an argument: all rules read a gradient, a master weight and at most two states, and share what
is before the rule (loss scale, clipping, weight decay) and after it (EMA, compute copy).
"""

import torch
from torch import Tensor

from ...library import operator, runs_on
from ..checks import check_like, check_master, check_scalars, check_table
from ..table import FlatTable
from .rule import RULES, Buffers, Rule


@torch.no_grad()
def flat_optimizer(
    rule: Rule,
    buffers: Buffers,
    table: FlatTable,
    scalars: Tensor,
    state_names: tuple[str, str] = ("momentum", "second_moment"),
) -> None:
    """One step in place; ``flat_sgd_step`` and its siblings call this.

    Args:
        rule: with settings that were checked, but for eps.
        buffers: of one length.
        table: of the segments.
        scalars: made by ``flat_scalars``; this step counts itself there.
        state_names: what errors call momentum and second moment.

    Raises:
        ValueError: a length, dtype, device or eps that does not fit.
    """
    master = buffers.master
    check_master("master", master)
    states = (buffers.momentum, buffers.second_moment)
    for name, state, needed in zip(state_names, states, RULES[rule.name], strict=True):
        check_like(name, state, master, optional=not needed)
    check_like("ema", buffers.ema, master, optional=True)
    check_like("grad", buffers.grad, master, half=True)
    check_like("copy", buffers.copy, master, half=True, optional=True)
    check_table(table, master)
    check_scalars(scalars, master)
    if not 0 < rule.eps < float("inf"):
        raise ValueError(f"eps must be finite and above 0, got {rule.eps}")
    step(buffers, table.settings, scalars, rule)


@operator(
    "flat_optimizer",
    mutates=("master", "momentum", "second_moment", "ema", "copy", "scalars"),
    runs=lambda op, buffers, *others: runs_on(op, buffers.master),
    direct=True,
)
def step(buffers: Buffers, settings: Tensor, scalars: Tensor, rule: Rule) -> None:
    return None
