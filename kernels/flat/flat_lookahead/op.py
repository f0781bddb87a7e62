"""``flat_lookahead``: slow weights over any of the flat steps."""

import torch
from torch import Tensor

from ...arguments import names_misfits
from ...library import operator
from ..checks import check_like, check_master, check_scalars


@torch.no_grad()
@names_misfits
def flat_lookahead(
    master: Tensor, slow: Tensor, scalars: Tensor, copy: Tensor | None = None, *, alpha: float = 0.5, every: int = 5
) -> None:
    """``slow ← slow + alpha·(w − slow)``, ``w ← slow``, after every ``every``-th step; call it after each step.

    Whether it is due is read from the scalar ``STEP`` on the device, so one captured graph does for all steps. A step
    that was skipped (``SKIP``) is no step.

    Args:
        master: [P] fast weights, fp32 (fp64: plain torch).
        slow: [P] of the dtype of ``master``; a clone of the weights before the first step.
        scalars: made by ``flat_scalars`` and advanced by the step before.
        copy: [P] fp32, bf16, fp16 or None; gets the weights where they change.
        alpha: the slow weights' step, in [0, 1].
        every: fast steps for one slow step, at least 1.

    Raises:
        ValueError: a length, dtype, layout, device or setting that does not fit.

    Zhang, Lucas, Hinton, Ba, "Lookahead optimizer: k steps forward, 1 step back", NeurIPS 2019.
    """
    check_master("master", master)
    check_like("slow", slow, master)
    check_like("copy", copy, master, half=True, optional=True)
    check_scalars(scalars, master)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    pull_back(master, slow, scalars, copy, float(alpha), every)


@operator("flat_lookahead", mutates=("master", "slow", "copy"), direct=True)
def pull_back(master: Tensor, slow: Tensor, scalars: Tensor, copy: Tensor | None, alpha: float, every: int) -> None:
    return None
