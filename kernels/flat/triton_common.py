"""What the Triton kernels over flat buffers share."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..tuning.tables import tile
from .scalars import FlatScalar
from .table import FLAT_BLOCK, SETTINGS

ROW = tl.constexpr(FLAT_BLOCK)
COLUMNS = tl.constexpr(SETTINGS)
LR = tl.constexpr(int(FlatScalar.LR))
EMA_DECAY = tl.constexpr(int(FlatScalar.EMA_DECAY))
GRAD_SCALE = tl.constexpr(int(FlatScalar.GRAD_SCALE))
CLIP = tl.constexpr(int(FlatScalar.CLIP))
SKIP = tl.constexpr(int(FlatScalar.SKIP))
STEP = tl.constexpr(int(FlatScalar.STEP))
MU_PRODUCT = tl.constexpr(int(FlatScalar.MU_PRODUCT))
STEP_SIZE = tl.constexpr(int(FlatScalar.STEP_SIZE))
GRAD_STEP = tl.constexpr(int(FlatScalar.GRAD_STEP))
ROOT_FACTOR = tl.constexpr(int(FlatScalar.ROOT_FACTOR))
GRAD_FACTOR = tl.constexpr(int(FlatScalar.GRAD_FACTOR))


@triton.jit
def load(ptr, offsets, n, EVEN: tl.constexpr):
    """Elements at ``offsets`` in fp32, 0 from ``n`` on; EVEN: no offset reaches n, and the loads need no mask."""
    if EVEN:
        return tl.load(ptr + offsets).to(tl.float32)
    return tl.load(ptr + offsets, mask=offsets < n, other=0.0).to(tl.float32)


@triton.jit
def store(ptr, offsets, values, n, EVEN: tl.constexpr):
    """Write ``values`` at ``offsets`` in the buffer's dtype, nothing from ``n`` on."""
    values = values.to(ptr.dtype.element_ty)
    if EVEN:
        tl.store(ptr + offsets, values)
    else:
        tl.store(ptr + offsets, values, mask=offsets < n)


@triton.jit
def lerp(start, end, weight, one_minus_weight):
    """``start + weight (end − start)``, from the nearer side: exact for weight 0 and 1 and for start = end."""
    step = end - start
    return tl.where(weight < 0.5, start + weight * step, end - one_minus_weight * step)


def launch(op: str, kernel: Any, n: int, *arguments: Tensor | float | None, **constants: Any) -> None:
    """Run an op's elementwise kernel over buffers of n elements, at the tile that the op has; a tensor comes first."""
    device = arguments[0].device  # type: ignore[union-attr]
    tiles = tile(op, n, device)
    constants |= {"EVEN": n % tiles["block"] == 0, "BLOCK": tiles["block"], "num_warps": tiles["num_warps"]}
    with torch.cuda.device_of(arguments[0]):
        kernel[(triton.cdiv(n, tiles["block"]),)](*arguments, **constants)
