"""``flat_ema``: the moving average of a flat buffer, for those that no optimizer step updates."""

from types import ModuleType

import torch
from torch import Tensor

from ... import backend
from ..checks import check_like, check_master, check_scalars
from . import torch_impl

_OP = "flat_ema"

backend.register(_OP, "triton", "torch", package=__package__)


@torch.no_grad()
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
    if not torch.compiler.is_compiling() and type(master) is Tensor and master.is_cpu:
        _implementation(master).flat_ema(ema, master, scalars)
    else:
        torch.ops.cifarfast.flat_ema(ema, master, scalars)


def _implementation(master: Tensor) -> ModuleType:
    if master.dtype == torch.float64 or backend.choose(_OP, master.device).backend == "torch":
        return torch_impl
    from . import triton_impl  # not at the top: it needs triton

    return triton_impl


@torch.library.custom_op("cifarfast::flat_ema", mutates_args=("ema",))
def _flat_ema(ema: Tensor, master: Tensor, scalars: Tensor) -> None:
    _implementation(master).flat_ema(ema, master, scalars)


@_flat_ema.register_fake
def _flat_ema_fake(ema: Tensor, master: Tensor, scalars: Tensor) -> None:
    return None
