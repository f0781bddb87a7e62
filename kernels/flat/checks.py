"""Argument checks of the ops over flat buffers."""

import torch
from torch import Tensor

from .scalars import FlatScalar
from .table import FLAT_BLOCK, SETTINGS, FlatTable

_MASTER_DTYPES = (torch.float32, torch.float64)
_HALF_DTYPES = (torch.bfloat16, torch.float16)
_SCALARS = len(FlatScalar)


def check_master(name: str, tensor: Tensor) -> None:
    """A buffer in full precision: [P] contiguous, P ≥ 1, fp32 (or fp64: plain torch)."""
    _check_flat(name, tensor)
    if tensor.dtype not in _MASTER_DTYPES:
        raise ValueError(f"{name} must be fp32 or fp64, got {tensor.dtype}")


def check_like(name: str, tensor: Tensor | None, master: Tensor, *, half: bool = False, optional: bool = False) -> None:
    """A buffer beside ``master``: as long, on its device, of its dtype or, with ``half``, also bf16 or fp16."""
    if tensor is None:
        if optional:
            return
        raise ValueError(f"{name} must be a [P] buffer, got None")
    _check_flat(name, tensor)
    if tensor.shape != master.shape:
        raise ValueError(f"{name} must have master's {master.shape[0]} elements, got {tensor.shape[0]}")
    allowed = (master.dtype, *(_HALF_DTYPES if half else ()))
    if tensor.dtype not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {tensor.dtype}")
    check_device(name, tensor, master)


def check_grad(name: str, tensor: Tensor) -> None:
    """A flat buffer of any floating-point dtype."""
    _check_flat(name, tensor)
    if tensor.dtype not in (*_MASTER_DTYPES, *_HALF_DTYPES):
        raise ValueError(f"{name} must be fp32, bf16, fp16 or fp64, got {tensor.dtype}")


def check_device(name: str, tensor: Tensor, other: Tensor) -> None:
    """Two tensors on one device."""
    if tensor.device != other.device:
        raise ValueError(f"{name} must be on {other.device} as the other buffers, got {tensor.device}")


def check_scalars(scalars: Tensor, master: Tensor) -> None:
    """What ``flat_scalars`` makes."""
    if scalars.shape != (_SCALARS,) or scalars.dtype != torch.float64 or not scalars.is_contiguous():
        found = f"{list(scalars.shape)} {scalars.dtype} with strides {list(scalars.stride())}"
        raise ValueError(f"scalars must be contiguous [{_SCALARS}] fp64, made by flat_scalars, got {found}")
    check_device("scalars", scalars, master)


def check_table(table: FlatTable | None, master: Tensor) -> None:
    """A table with as many blocks as the buffers have, whose settings kernels read row by row."""
    if table is None:
        return
    blocks = -(-master.shape[0] // FLAT_BLOCK)
    if table.settings.shape != (blocks, SETTINGS):
        raise ValueError(
            f"table must have {blocks} blocks of {FLAT_BLOCK} for {master.shape[0]} elements, "
            f"got {table.settings.shape[0]}"
        )
    if table.settings.dtype != torch.float32 or not table.settings.is_contiguous():
        found = f"{table.settings.dtype} with strides {list(table.settings.stride())}"
        raise ValueError(f"table must have contiguous fp32 settings, made by flat_table, got {found}")
    check_device("table", table.settings, master)


def check_share(name: str, value: float) -> None:
    """A number in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value}")


def check_eta(eta: float) -> None:
    """ASAM's eta: finite and at least 0."""
    if not 0 <= eta < float("inf"):
        raise ValueError(f"eta must be finite and at least 0, got {eta}")


def _check_flat(name: str, tensor: Tensor) -> None:
    if tensor.ndim != 1 or tensor.shape[0] < 1 or not tensor.is_contiguous():
        raise ValueError(f"{name} must be a contiguous [P] buffer with P at least 1, got {list(tensor.shape)}")
