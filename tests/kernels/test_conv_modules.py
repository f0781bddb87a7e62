"""What ``ConvBNAct2d`` and ``BNActConv2d`` share: autocast as in torch's modules, and settings checked when built."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarfast.kernels import BNActConv2d, ConvBNAct2d

KINDS = {"conv2d_bn_act": ConvBNAct2d, "bn_act_conv2d": BNActConv2d}


def torchs(module: nn.Module, x: Tensor, residual: Tensor | None) -> Tensor:
    """The same with torch's modules."""
    if isinstance(module, BNActConv2d):
        return module.conv(F.relu(nn.BatchNorm2d.forward(module.bn, x)))
    y = nn.BatchNorm2d.forward(module.bn, module.conv(x))
    return F.relu(y if residual is None else y + residual)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_autocast(kind: str, x_dtype: torch.dtype, training: bool) -> None:
    """Under autocast to bf16 as near to the results in fp64 as torch's modules, but for a rounding of the inputs."""
    torch.manual_seed(0)
    ours = KINDS[kind](16, 32, 3, padding=1).train(training)
    theirs, exact = copy.deepcopy(ours), copy.deepcopy(ours).double()
    x = torch.randn(4, 16, 8, 8).to(x_dtype)
    residual = torch.randn(4, 32, 8, 8) if kind == "conv2d_bn_act" else None
    results = []
    for module in (ours, theirs, exact):
        leaf = (x.double() if module is exact else x).clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=module is not exact):
            if module is ours:
                out = ours(leaf) if residual is None else ours(leaf, residual)
            else:
                out = torchs(module, leaf, residual)
        out.backward(torch.linspace(-1, 1, out.numel()).view_as(out).to(out.dtype))
        results.append((out, leaf.grad, *(p.grad for p in module.parameters()), *module.buffers()))
    assert results[0][0].dtype == torch.bfloat16
    for values in zip(*results, strict=True):
        a, b, truth = (value.double() for value in values)
        assert (a - truth).norm() <= 1.5 * (b - truth).norm() + 2**-8 * truth.norm()
    assert results[0][1].dtype == x_dtype
    assert all(p.grad.dtype == torch.float32 for p in ours.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_leaves_fp64(kind: str) -> None:
    module = KINDS[kind](8, 8, 1).double()
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(x).dtype == torch.float64


@pytest.mark.parametrize("kind", KINDS)
def test_module_compiles_fullgraph_under_autocast(kind: str) -> None:
    module = KINDS[kind](8, 8, 3, padding=1)
    x = torch.randn(2, 8, 4, 4)
    torch.compiler.reset()
    with torch.autocast("cpu", torch.bfloat16):
        out = torch.compile(module, fullgraph=True, backend="aot_eager")(x)
        torch.testing.assert_close(out, module(x))


@pytest.mark.parametrize("kind", KINDS)
def test_module_compiles_fullgraph_in_fp64(kind: str) -> None:
    module = KINDS[kind](8, 8, 1).double()
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64)
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride": 3}, "stride must be 1 or 2, got 3"),
        ({"stride": (1, 2)}, "stride must be an int or two equal ones"),
        ({"padding": "same"}, "padding must be an int or two equal ones, got 'same'"),
        ({"padding": -1}, r"padding must lie in \[0, 32767\], got -1"),
        ({"momentum": 2.0}, r"momentum must lie in \[0, 1\] or be None, got 2.0"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_checked_when_built(kind: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        KINDS[kind](8, 16, 3, **settings)
