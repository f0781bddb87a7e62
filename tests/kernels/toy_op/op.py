"""``y = scale · x [+ shift]`` and x's mean, of which a running mean is kept."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cifarfast.kernels.library import Gradients, operator


@dataclass(frozen=True)
class Running:
    """A running mean, if there is one."""

    mean: Tensor | None
    momentum: float | None


@dataclass(frozen=True)
class Affine:
    """Of a line."""

    scale: Tensor
    shift: Tensor | None


@operator("toy_line", mutates=("mean",), differentiable=1)
def line(x: Tensor, running: Running, affine: Affine) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(x.shape[1:])


@operator("toy_line_backward")
def line_backward(grad: Tensor, x: Tensor, affine: Affine, other: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(affine.scale), torch.empty_like(affine.scale)


needed: list[dict[str, bool]] = []


@line.backward(saves=lambda outputs, x, running, affine: (x, affine, running.momentum, None))
def _gradients(
    grad: Tensor, x: Tensor, affine: Affine, momentum: float | None, nothing: None, *, needs, other=None
) -> Gradients:
    assert nothing is None
    if not torch.compiler.is_compiling():
        needed.append({name: needs(name) for name in ("x", "scale", "shift")})
    dx, d_scale, d_shift = line_backward(grad, x, affine, other)
    return {"x": dx, "scale": d_scale, "shift": d_shift}


@operator("toy_sum_and_difference")
def sum_and_difference(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(a), torch.empty_like(a)


@sum_and_difference.backward
def _gradients_of_both(d_sum: Tensor | None, d_difference: Tensor | None, a: Tensor, b: Tensor) -> Gradients:
    if d_difference is None:
        return {"a": d_sum, "b": d_sum}
    assert d_sum is None
    return {"a": d_difference, "b": -d_difference}


@operator("toy_without_gradient")
def without_gradient(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@operator("toy_count", mutates=("count",))
def count_up(count: Tensor, by: int) -> None: ...
