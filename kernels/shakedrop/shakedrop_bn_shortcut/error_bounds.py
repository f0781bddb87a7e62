"""How far the block tail may be off in fp32: first-order error analysis, for judging sums that nearly cancel."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...testing.spec import Inputs
from ..draws import draw_coefficients
from ..spec import scaling_of
from .reference import pad_shortcut


def error_bounds(inputs: Inputs, cotangents: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Of the output and of the gradients that there are, in units of eps.

    ``x̂ = (h − mean) / σ`` is off by ``3 |x̂| + 2``: roundings of the difference, of 1/σ and of the product, and two of
    the deviations that the mean is taken of. Sums of g and of g · x̂ are off by the sums of their terms' absolute
    values, and the gradient of h by the part of those that each pixel gets.
    """
    h, x = inputs["h"].detach(), inputs["x"].detach()
    training, by_batch = inputs["training"], inputs["training"] or inputs["running_mean"] is None
    mean, var = (inputs["running_mean"], inputs["running_var"])
    if by_batch:
        var, mean = torch.var_mean(h, dim=(0, 2, 3), correction=0)
    rstd = 1 / (var + inputs.get("eps", 1e-5)).sqrt()[:, None, None]
    normalized = (h - mean[:, None, None]).abs() * rstd
    weight = torch.ones_like(mean) if inputs.get("weight") is None else inputs["weight"].detach().abs()
    bias = torch.zeros_like(mean) if inputs.get("bias") is None else inputs["bias"].detach().abs()
    weight, bias = weight[:, None, None], bias[:, None, None]
    forward, backward = _coefficients(inputs, h, training)
    pool = x.shape[2:] != h.shape[2:]
    output = pad_shortcut(x.abs(), h.shape[1], pool=pool) + forward.abs() * (weight * (3 * normalized + 2) + bias)

    dy = cotangents[0].abs()
    g = dy * backward
    sum_g, sum_g_x = g.sum(dim=(0, 2, 3)), (g * (3 * normalized + 2)).sum(dim=(0, 2, 3))
    spread = torch.zeros_like(h)
    if by_batch:
        pixels = h.numel() // h.shape[1]
        spread = (sum_g[:, None, None] + (normalized + 1) * sum_g_x[:, None, None]) / pixels
    gradients = {
        "h": 2 * rstd * weight * (g + spread),
        "x": _shortcut_gradient(dy, x, pool),
        "weight": sum_g_x,
        "bias": sum_g,
    }
    return [output], [gradients[name] for name in gradients if inputs.get(name) is not None]


def _coefficients(inputs: Inputs, h: Tensor, training: bool) -> tuple[Tensor, Tensor]:
    """Of the forward and of the backward."""
    p = inputs["keep_probability"]
    if not training or p == 1:
        return torch.full_like(h[:1, :1, :1, :1], p), torch.full_like(h[:1, :1, :1, :1], p)
    forward, backward = draw_coefficients(h.shape, h.device, scaling_of(inputs, h))
    return forward.to(h.dtype), backward.to(h.dtype)


def _shortcut_gradient(dy: Tensor, x: Tensor, pool: bool) -> Tensor:
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(pad_shortcut(leaf, dy.shape[1], pool=pool), leaf, dy)
    return gradient
