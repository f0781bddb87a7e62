"""Statistics, tiles, and errors of ``conv2d``, beyond what its OpSpec generates."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarfast.kernels import conv2d
from cifarfast.kernels.batch_norm.state import NO_NORM
from cifarfast.kernels.convolution.arguments import Convolution, Needed
from cifarfast.kernels.convolution.conv2d import op
from cifarfast.kernels.convolution.tiles import fit, geometry, pixel_box
from cifarfast.kernels.testing.compile_report import Compiled
from cifarfast.kernels.testing.spec import OpSpec, SampleMaker

ROW = {"pixels": 128, "channels": 128, "depth": 64, "warps": 8, "stages": 3}


def test_takes_the_pairs_that_torch_modules_keep() -> None:
    conv = torch.nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False)
    x = torch.randn(2, 8, 5, 5)
    y = conv2d(x, conv.weight, stride=conv.stride, padding=conv.padding)
    torch.testing.assert_close(y, conv(x))


def with_statistics(x: Tensor, weight: Tensor, **geometry: int) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and mean and biased variance that the op found, in fp64; checked against a batch norm's buffers."""
    norm = nn.BatchNorm2d(weight.shape[0], eps=1e-6, momentum=1.0, device=x.device)
    y, statistics = conv2d(x, weight, **geometry, next_norm=norm)
    assert statistics.dtype == torch.float32
    high, low, rstd = statistics.double()
    var, pixels = rstd**-2 - norm.eps, y.numel() // y.shape[1]
    assert norm.num_batches_tracked.item() == 1
    torch.testing.assert_close(norm.running_mean.double(), high + low, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), var * pixels / (pixels - 1), rtol=1e-4, atol=1e-6)
    return y.double(), high + low, var


def test_statistics(spec: OpSpec, case: str, implementation: str) -> None:
    inputs = spec.cases[case](SampleMaker(torch.bfloat16, implementation))
    y, mean, var = with_statistics(**inputs)
    torch.testing.assert_close(mean, y.mean(dim=(0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(var, y.var(dim=(0, 2, 3), correction=0), rtol=1e-5, atol=1e-6)


def test_statistics_of_a_large_mean(implementation: str) -> None:
    make = SampleMaker(torch.float32, implementation)
    x = 1 + make.randn(5, 8, 4, 5, scale=1e-4)
    y, mean, var = with_statistics(x, torch.full((8, 8, 1, 1), 12.5, device=implementation))
    torch.testing.assert_close(mean, y.mean(dim=(0, 2, 3)), rtol=1e-7, atol=0)
    torch.testing.assert_close(var, y.var(dim=(0, 2, 3), correction=0), rtol=1e-3, atol=0)


@pytest.mark.parametrize("shape", [(3, 9, 11), (3, 39, 41), (2, 32, 64), (1, 65, 65)])
def test_statistics_over_groups_of_tiles(shape: tuple[int, int, int], implementation: str) -> None:
    """Several, and more than one program joins: a last group and a last tile with fewer, all full, one of one tile."""
    n, h, w = shape
    make = SampleMaker(torch.float32, implementation)
    x = 3 + make.randn(n, 8, h, w) + torch.linspace(-9, 9, h, device=implementation)[:, None]  # tiles differ
    y, mean, var = with_statistics(x, make.randn(24, 8, 1, 1))
    torch.testing.assert_close(mean, y.mean(dim=(0, 2, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(var, y.var(dim=(0, 2, 3), correction=0), rtol=2e-6, atol=0)


@pytest.mark.parametrize("operand", ["x", "weight", "dy"])
def test_an_operand_that_no_descriptor_can_describe(operand: str, spec: OpSpec, implementation: str) -> None:
    """A view that begins at its storage's second element, 2 bytes past what a tensor descriptor needs."""
    make = SampleMaker(torch.bfloat16, implementation)
    inputs = spec.cases["boxes"](make)
    tensors = {"x": inputs["x"], "weight": inputs["weight"], "dy": make.randn(2, 8, 8, 24).permute(0, 3, 1, 2)}
    moved = tensors[operand]
    view = moved.new_zeros(moved.numel() + 1).as_strided(moved.shape, moved.stride(), 1).copy_(moved)
    assert view.data_ptr() % 16

    def results(x: Tensor, weight: Tensor, dy: Tensor) -> list[Tensor]:
        conv = Convolution(1, 1)
        forward = op.forward(x, weight, NO_NORM, True, conv)
        return [*forward, *op.backward(x, weight, dy, conv, Needed(True, True))]

    for result, expected in zip(results(**{**tensors, operand: view}), results(**tensors), strict=True):
        torch.testing.assert_close(result, expected, rtol=0.01, atol=0.01)


def test_geometry_is_torchs() -> None:
    for stride in (1, 2):
        for padding in (0, 1, 2):
            x, weight = torch.zeros(2, 8, 7, 5), torch.zeros(16, 8, 3, 3)
            g = geometry(x.shape, weight.shape, stride, padding)
            assert F.conv2d(x, weight, stride=stride, padding=padding).shape == (g.n, g.k, g.p, g.q)


@pytest.mark.parametrize(
    ("pixels", "grid", "whole_rows", "box"),
    [
        (128, (128, 32, 32), False, (1, 8, 16)),
        (128, (128, 8, 8), False, (2, 8, 8)),
        (128, (3, 1, 1), False, (128, 1, 1)),
        (64, (128, 32, 32), True, (1, 2, 32)),
        (64, (128, 4, 4), True, (4, 4, 4)),
        (128, (128, 12, 12), False, None),  # boxes of 4 by 4 would need more than one image
        (128, (128, 7, 7), False, None),
        (64, (128, 32, 24), True, None),
    ],
)
def test_boxes_of_pixels(
    pixels: int, grid: tuple[int, int, int], whole_rows: bool, box: tuple[int, int, int] | None
) -> None:
    assert pixel_box(pixels, grid, whole_rows=whole_rows) == box


@pytest.mark.parametrize(("channels", "depth"), [(8, 16), (24, 32), (72, 32), (120, 64), (168, 64), (512, 64)])
def test_depth_fits_the_channels(channels: int, depth: int) -> None:
    tiling = fit(ROW, "fwd", channels, (128, 32, 32), torch.bfloat16, descriptors=True)
    assert (tiling.depth, tiling.pixels, tiling.descriptors) == (depth, 128, True)


def test_fp32_gets_smaller_tiles_without_descriptors() -> None:
    tiling = fit(ROW, "fwd", 128, (128, 32, 32), torch.float32, descriptors=False)
    assert (tiling.pixels, tiling.channels, tiling.depth, tiling.box) == (64, 64, 32, (1, 1, 64))


def test_a_costly_activation_gets_registers() -> None:
    def fitted(kernel: str, act: str, **changes: int) -> tuple[int, int | None]:
        row = {**ROW, **changes}
        tiling = fit(row, kernel, 512, (128, 32, 32), torch.bfloat16, descriptors=True, act=act)
        return tiling.pixels, tiling.max_registers

    for act in ("identity", "relu", "leaky_relu"):
        assert fitted("dgrad", act) == (128, None)
    assert fitted("dgrad", "gelu") == (64, 255)  # of the result: 128 channels
    assert fitted("dgrad", "gelu", channels=64) == (128, 255)
    assert fitted("fwd", "silu") == (128, 255)  # of the operand: 64 channels
    assert fitted("fwd", "silu", depth=128) == (64, 255)
    assert fitted("dgrad", "tanh", channels=256) == (64, 255)
    assert fitted("dgrad", "tanh", warps=16) == (128, 128)


def test_a_convolution_without_wgmma_is_a_problem() -> None:
    slow = Compiled("conv_fwd_kernel", "", "sm_90", 128, 0, 0, "mma", needs_wgmma=True)
    assert slow.problem == "does not use wgmma"
    assert Compiled("conv_fwd_kernel", "", "sm_80", 128, 0, 0, "mma", needs_wgmma=True).problem is None
    assert Compiled("conv_fwd_kernel", "", "sm_90", 128, 0, 0, "wgmma", needs_wgmma=True).problem is None
