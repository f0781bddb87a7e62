"""What the rounding errors of the pooled batch norm are measured by: the terms of its sums, which may nearly cancel."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...batch_norm.activations import activate, derivative
from ...testing.spec import Inputs


def error_bounds(inputs: Inputs, cotangents: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Of the output and of the gradients that there are: the sums of the absolute values of their terms.

    ``y = Σ act(z) / M`` with ``z = weight · x̂ + bias``, and with ``g = dy / M · act′(z)``::

        grad_x = rstd · weight · (g − Σ g / n − x̂ · Σ g·x̂ / n),   grad_weight = Σ g·x̂,   grad_bias = Σ g

    g's own is that of ``act′``, which for some activations is a sum too.
    """
    x, act, slope = inputs["x"].detach(), inputs.get("act", "relu"), inputs.get("negative_slope", 0.01)
    by_batch = inputs["training"] or inputs["running_mean"] is None
    mean, var = inputs["running_mean"], inputs["running_var"]
    if by_batch:
        var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    rstd = 1 / (var + inputs.get("eps", 1e-5)).sqrt()[:, None, None]
    normalized = (x - mean[:, None, None]) * rstd
    weight = torch.ones_like(mean) if inputs.get("weight") is None else inputs["weight"].detach()
    bias = torch.zeros_like(mean) if inputs.get("bias") is None else inputs["bias"].detach()
    weight, bias = weight[:, None, None], bias[:, None, None]
    terms = (weight * normalized).abs() + bias.abs()
    z = weight * normalized + bias
    pixels = x.shape[2] * x.shape[3]
    g = cotangents[0].abs()[:, :, None, None] / pixels * _derivative_scale(z, terms, act, slope)
    output = (activate(z.clone(), act, slope).abs() + terms).mean(dim=(2, 3))

    normalized = normalized.abs()
    sum_g, sum_g_x = g.sum(dim=(0, 2, 3)), (g * normalized).sum(dim=(0, 2, 3))
    spread = torch.zeros_like(x)
    if by_batch:
        count = x.numel() // x.shape[1]
        spread = (sum_g[:, None, None] + normalized * sum_g_x[:, None, None]) / count
    gradients = {"x": rstd * weight.abs() * (g + spread), "weight": sum_g_x, "bias": sum_g}
    return [output], [gradients[name] for name in gradients if inputs.get(name) is not None]


def _derivative_scale(z: Tensor, terms: Tensor, act: str, slope: float) -> Tensor:
    """The terms of ``act′(z)``, and ``|act″(z)|`` times those of z: GELU and SiLU have a minimum, where act′ is 0."""
    sigmoid, tanh = z.sigmoid(), z.tanh()
    if act == "gelu":
        cumulative, density = (1 + (z / 2**0.5).erf().abs()) / 2, (-z * z / 2).exp() / (2 * torch.pi) ** 0.5
        own = cumulative + z.abs() * density
    elif act == "silu":
        own = sigmoid + z.abs() * sigmoid * (1 - sigmoid)
    elif act == "sigmoid":
        own = sigmoid + sigmoid**2
    elif act == "tanh":
        own = 1 + tanh**2
    else:
        own = derivative(z, act, slope).abs()
    with torch.enable_grad():
        point = z.detach().requires_grad_()
        first = derivative(point, act, slope)
        second = torch.autograd.grad(first.sum(), point)[0].abs() if first.requires_grad else torch.zeros_like(z)
    return own + second * terms
