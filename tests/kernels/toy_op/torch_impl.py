"""The ops with torch."""

from torch import Tensor

from .op import Affine, Running


def toy_line(x: Tensor, running: Running, affine: Affine) -> tuple[Tensor, Tensor]:
    mean = x.mean(0)
    if running.mean is not None:
        momentum = 1.0 if running.momentum is None else running.momentum
        running_mean = running.mean.detach().numpy()  # written as a kernel writes: autograd does not notice
        running_mean += momentum * (mean.detach().numpy() - running_mean)
    y = x * affine.scale
    return y if affine.shift is None else y + affine.shift, mean


def toy_line_backward(grad: Tensor, x: Tensor, affine: Affine, other: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    dx = grad * affine.scale
    return dx if other is None else dx + other, (grad * x).sum(), grad.sum()


def toy_sum_and_difference(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return a + b, a - b


def toy_without_gradient(x: Tensor) -> Tensor:
    return x.clone()


def toy_count(count: Tensor, by: int) -> None:
    count.add_(by)
