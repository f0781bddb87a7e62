"""``flat_ema``: the moving average of a flat buffer, for those that no optimizer step updates."""

import torch
from torch import Tensor

from ...arguments import names_misfits
from ...library import operator
from ..checks import check_like, check_master, check_scalars


@torch.no_grad()
@names_misfits
def flat_ema(ema: Tensor, master: Tensor, scalars: Tensor) -> None:
    """``ema ← d·ema + (1 − d)·w`` in place, computed as ``ema + (1 − d)(w − ema)``; d is the scalar ``EMA_DECAY``.

    Exact for d = 0 (ema = w), d = 1 (unchanged) and ema = w. The optimizer steps do the same with their ``ema``; this
    is for other buffers, such as running statistics, and for averages that move less often than the weights.

    Args:
        ema: [P] of the dtype of ``master``.
        master: [P] fp32 (fp64: plain torch); only read.
        scalars: made by ``flat_scalars``.

    Raises:
        ValueError: a length, dtype, layout or device that does not fit.

    Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992.
    """
    check_master("master", master)
    check_like("ema", ema, master)
    check_scalars(scalars, master)
    average(ema, master, scalars)


@operator("flat_ema", mutates=("ema",), direct=True)
def average(ema: Tensor, master: Tensor, scalars: Tensor) -> None:
    return None
