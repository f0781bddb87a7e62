"""Sample inputs and the benchmark's baseline for the specs of the ops that start with a batch norm."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..testing.shapes import Shape
from ..testing.spec import Case, Inputs, SampleMaker, Tolerance
from .activations import ACTIVATIONS, activate
from .arguments import statistics_dtype
from .norm import Norm


def batch_norm_inputs(make: SampleMaker, x: Tensor, **settings: Any) -> Inputs:
    """Arguments of a batch norm of ``x``: parameters and running statistics in fp32 (fp64 for fp64 x); training."""
    channels = x.shape[1]
    dtype = torch.float64 if make.dtype == torch.float64 else torch.float32
    return {
        "x": x,
        "running_mean": make.randn(channels, scale=0.5, dtype=dtype),
        "running_var": make.rand(channels, dtype=dtype) + 0.5,
        "weight": make.randn(channels, scale=0.3, dtype=dtype) + 1,
        "bias": make.randn(channels, scale=0.3, dtype=dtype),
        "training": True,
        **settings,
    }


def channels_last(n: int, c: int, h: int, w: int, **settings: Any) -> Case:
    """x as the fast path has it."""
    return lambda make: batch_norm_inputs(make, make.randn(n, h, w, c).permute(0, 3, 1, 2), **settings)


def channels_first(n: int, c: int, h: int, w: int, **settings: Any) -> Case:
    """x as torch's default layout has it."""
    return lambda make: batch_norm_inputs(make, make.randn(n, c, h, w), **settings)


def offset(n: int, c: int, h: int, w: int, **settings: Any) -> Case:
    """Channels with mean 1e3 and standard deviation 1e-2."""

    def case(make: SampleMaker) -> Inputs:
        noise = make.randn(n, h, w, c, dtype=torch.float64, scale=1e-2)
        return batch_norm_inputs(make, (noise + 1e3).to(make.dtype).permute(0, 3, 1, 2), **settings)

    return case


def sliced(make: SampleMaker) -> Inputs:
    """x with gaps between channels, rows and pixels."""
    return batch_norm_inputs(make, make.randn(3, 14, 6, 7)[:, ::2, 1:, ::3], act="tanh")


def with_gaps(case: Case) -> Case:
    """The same with weight and bias as every second element of a vector, NaN between them."""

    def case_with_gaps(make: SampleMaker) -> Inputs:
        inputs = case(make)
        for name in ("weight", "bias"):
            vector = inputs[name]
            inputs[name] = torch.stack([vector, torch.full_like(vector, torch.nan)], dim=1)[:, 0]
        return inputs

    return case_with_gaps


def not_affine(case: Case) -> Case:
    """The same without parameters and running statistics."""

    def bare(make: SampleMaker) -> Inputs:
        inputs = {**case(make), "running_mean": None, "running_var": None}
        del inputs["weight"], inputs["bias"]
        return inputs

    return bare


def counted(case: Case) -> Case:
    """The same with the count of batches, as a module has it."""
    return lambda make: {
        **case(make),
        "num_batches_tracked": torch.tensor(2, dtype=torch.int64, device=make.device),
    }


def cumulative(case: Case) -> Case:
    """The running statistics as the mean of all batches, this one being the third."""
    return lambda make: {**counted(case)(make), "momentum": None}


def compiled(c: int, **settings: Any) -> Case:
    """What the compile report has of c channels."""
    return counted(channels_last(16, c, 8, 8, **settings))


def timed(n: int, c: int, h: int, w: int, *, residual: bool = False, **settings: Any) -> Case:
    """A shape to time; on a CPU two images of at most 8×8.

    No pre-activation is near 0: of the 10⁸ of a large shape some would lie on one side of a relu's corner in fp32 and
    on the other in fp64, and their gradients could not be compared.
    """

    def case(make: SampleMaker) -> Inputs:
        shape = (n, h, w, c) if make.device.type == "cuda" else (make.images(n), min(h, 8), min(w, 8), c)
        x = make.randn(*shape).permute(0, 3, 1, 2)
        x = x + 0.5 * x.sign()
        inputs = batch_norm_inputs(make, x, **settings)
        inputs["weight"] = make.rand(c, dtype=inputs["weight"].dtype) + 0.5
        inputs["bias"] = inputs["bias"] * 0.1
        return {**inputs, "residual": 0.5 * x} if residual else inputs

    return case


def timed_shapes(named: Mapping[str, Shape], **settings: Any) -> dict[str, Case]:
    """``timed`` for each of the shapes."""
    return {name: timed(n, c, side, side, **settings) for name, (n, c, side) in named.items()}


def channels_of(inputs: Inputs) -> int:
    """x's channels, the size in the tuning table."""
    return inputs["x"].shape[1]


def random_batch_norm(make: SampleMaker, draw_int: Callable[[int, int], int], smallest: int = 1) -> Inputs:
    """Any shape, layout, mode and activation; height and width at least ``smallest``."""
    shape = (draw_int(1, 3), draw_int(1, 20), draw_int(smallest, 4), draw_int(smallest, 4))
    settings: Inputs = {
        "training": draw_int(0, 2) > 0 and shape[0] * shape[2] * shape[3] > 1,
        "act": ACTIVATIONS[draw_int(0, len(ACTIVATIONS) - 1)],
        "negative_slope": draw_int(0, 4) / 4,
        "momentum": draw_int(0, 4) / 4,
        # with ε near 0 two nearly equal values would be an ill-conditioned problem
        "eps": 0.1,
    }
    return (channels_last, channels_first)[draw_int(0, 1)](*shape, **settings)(make)


def largest_term(inputs: Inputs) -> float:
    """``max |weight · x̂| + |bias| [+ |residual|]``, at least 1.

    A value near its channel's mean has the rounding errors of the mean, which are as large as the values that are far
    from it make them.
    """
    x = (inputs["x"] if "x" in inputs else inputs["a"] + inputs["b"]).detach().double()
    by_batch = inputs.get("training", False) or inputs["running_mean"] is None
    mean, var = inputs["running_mean"], inputs["running_var"]
    if by_batch:
        var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    far = (x - mean[:, None, None]).abs().amax(dim=(0, 2, 3)) / (var + inputs.get("eps", 1e-5)).sqrt()
    weight, bias, residual = (inputs.get(name) for name in ("weight", "bias", "residual"))
    far = far if weight is None else far * weight.detach().abs()
    far = far if bias is None else far + bias.detach().abs()
    return max(1.0, far.max().item() + (0.0 if residual is None else residual.detach().abs().max().item()))


def given_statistics(inputs: Inputs) -> Tensor:
    """The statistics [3, C] that the op normalises x with."""
    wide = inputs["x"].detach().to(statistics_dtype(inputs["x"]))
    mean, var = inputs["running_mean"], inputs["running_var"]
    if inputs.get("training", False):
        var, mean = torch.var_mean(wide, dim=(0, 2, 3), correction=0)
    mean, var = mean.to(wide.dtype), var.to(wide.dtype)
    return torch.stack([mean, torch.zeros_like(mean), 1 / (var + inputs.get("eps", 1e-5)).sqrt()])


def given_norm(inputs: Inputs) -> Norm:
    """The batch norm of x and its activation, as the ops take them."""
    affine = (given_statistics(inputs), inputs.get("weight"), inputs.get("bias"))
    training = inputs.get("training", False)
    return Norm(*affine, training, inputs.get("act", "relu"), inputs.get("negative_slope", 0.01))


def eager_batch_norm_act(x: Tensor, *, training: bool = False, **inputs: Any) -> Tensor:
    """The sequence as it is written with torch alone, in x's dtype; dropout with draws of its own."""
    mean, var, weight, bias = (inputs.get(name) for name in ("running_mean", "running_var", "weight", "bias"))
    return _finished(F.batch_norm(x, mean, var, weight, bias, training), **inputs)


def cudnn_batch_norm_act(x: Tensor, *, training: bool = False, **inputs: Any) -> Tensor:
    """The same sequence with cuDNN's batch norm, on a GPU only."""
    weight, bias, mean, var = (inputs[name] for name in ("weight", "bias", "running_mean", "running_var"))
    return _finished(torch.cudnn_batch_norm(x, weight, bias, mean, var, training, 0.1, 1e-5)[0], **inputs)


def _finished(
    z: Tensor, *, residual: Tensor | None = None, act: str = "relu", dropout_p: float = 0.0, **_: Any
) -> Tensor:
    """What follows the batch norm."""
    y = activate(z if residual is None else z + residual, act, 0.01)
    return F.dropout(y, dropout_p) if dropout_p else y


# what the specs of these ops have in common
NORM_OP: dict[str, Any] = {
    "random_floor": largest_term,
    "forward_tolerance": Tolerance(ulps=4.0, rms_ulps=4.0),
    "gradient_tolerance": Tolerance(ulps=8.0, rms_ulps=8.0),
    "mutates": ("running_mean", "running_var"),
    "advances": ("num_batches_tracked",),
}
