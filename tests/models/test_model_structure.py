"""WRN and PyramidNet against plain definitions of the published structures, written with torch.nn.functional."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cifarfast.kernels import ShakeDrop, share_randomness
from cifarfast.kernels.shakedrop.draws import Scaling, draw_coefficients
from cifarfast.models import create_model
from cifarfast.models.create import set_dropout
from cifarfast.models.wrn import WideResNet


class Reader:
    """Hands out a model's parameters in registration order and checks each shape."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.parameters = [p.detach() for p in model.parameters()]

    def take(self, *shape: int) -> Tensor:
        parameter = self.parameters.pop(0)
        assert parameter.shape == shape
        return parameter

    def bn(self, channels: int) -> tuple[Tensor, Tensor]:
        return self.take(channels), self.take(channels)


def bn(x: Tensor, weight_and_bias: tuple[Tensor, Tensor]) -> Tensor:
    """Batch norm with the batch's own statistics, spelled out."""
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    weight, bias = weight_and_bias
    return (x - mean) / torch.sqrt(var + 1e-5) * weight[:, None, None] + bias[:, None, None]


def wrn(x: Tensor, reader: Reader, depth: int, width: int, first_relu: bool, last_bn: bool) -> Tensor:
    channels = 16
    x = F.conv2d(x, reader.take(16, 3, 3, 3), padding=1)
    for group, stride in enumerate((1, 2, 2)):
        wide = (16, 32, 64)[group] * width
        for block in range((depth - 4) // 6):
            step = stride if block == 0 else 1
            a = bn(x, reader.bn(channels))
            a = F.relu(a) if first_relu else a
            out = F.conv2d(a, reader.take(wide, channels, 3, 3), stride=step, padding=1)
            out = F.relu(bn(out, reader.bn(wide)))
            out = F.conv2d(out, reader.take(wide, wide, 3, 3), padding=1)
            out = bn(out, reader.bn(wide)) if last_bn else out
            if wide != channels:
                x = F.conv2d(a, reader.take(wide, channels, 1, 1), stride=step)
            x = x + out
            channels = wide
    x = F.avg_pool2d(F.relu(bn(x, reader.bn(channels))), 8).flatten(1)
    return F.linear(x, reader.take(10, channels), reader.take(10))


def pyramidnet(x: Tensor, reader: Reader, blocks_a_group: int, alpha: float, scales: list[Tensor]) -> Tensor:
    """``scales`` has what each block's branch is multiplied by."""
    channels, exact = 16, 16.0
    x = bn(F.conv2d(x, reader.take(16, 3, 3, 3), padding=1), reader.bn(16))
    for group in range(3):
        for block in range(blocks_a_group):
            stride = 2 if group > 0 and block == 0 else 1
            exact = exact + alpha / (3 * blocks_a_group)
            wide = round(exact)
            out = F.conv2d(bn(x, reader.bn(channels)), reader.take(wide, channels, 3, 3), stride=stride, padding=1)
            out = F.relu(bn(out, reader.bn(wide)))
            out = bn(F.conv2d(out, reader.take(wide, wide, 3, 3), padding=1), reader.bn(wide))
            if stride == 2:
                x = (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
            zeros = torch.zeros(x.shape[0], wide - channels, *x.shape[2:], dtype=x.dtype)
            x = scales[group * blocks_a_group + block] * out + torch.cat([x, zeros], dim=1)
            channels = wide
    x = F.relu(bn(x, reader.bn(channels))).mean((2, 3))
    return F.linear(x, reader.take(10, channels), reader.take(10))


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """The model in float64 with every vector random, batch norm's too, so that no term hides behind a 0 or 1."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.double()


@pytest.mark.parametrize(("first_relu", "last_bn"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("width", [1, 2])
def test_wide_resnet(width: int, first_relu: bool, last_bn: bool) -> None:
    torch.manual_seed(2)
    model = randomised(WideResNet(depth=16, width=width, first_relu=first_relu, last_bn=last_bn))
    set_dropout("wrn", model, 0.0)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    reader = Reader(model)
    torch.testing.assert_close(model(x).detach(), wrn(x, reader, 16, width, first_relu, last_bn))
    assert not reader.parameters


@pytest.mark.parametrize("shakedrop", [False, True])
def test_pyramidnet(shakedrop: bool) -> None:
    torch.manual_seed(2)
    model = randomised(create_model("pyramidnet20_a22_shakedrop" if shakedrop else "pyramidnet20_a22"))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    scales = [torch.ones(())] * 9
    if shakedrop:
        seed, step, indices = torch.tensor(8), torch.tensor(6), torch.tensor([40, 2])
        assert share_randomness(model, seed, step, indices) == 9
        settings = [(1 - (block + 1) / 9 * 0.5, block, "image", "image") for block in range(9)]
        scalings = [Scaling(seed, step, indices, *setting) for setting in settings]
        scales = [draw_coefficients(x.shape, x.device, scaling)[0] for scaling in scalings]
        assert any(torch.any(scale != 1) for scale in scales)
    reader = Reader(model)
    torch.testing.assert_close(model(x).detach(), pyramidnet(x, reader, 3, 22, scales))
    assert not reader.parameters


def test_shakedrop_keeps_less_with_depth() -> None:
    with torch.device("meta"):
        model = create_model("pyramidnet110_a150_shakedrop")
    kept = [module.keep_probability for module in model.modules() if isinstance(module, ShakeDrop)]
    assert kept == pytest.approx([1 - block / 54 * 0.5 for block in range(1, 55)])


def test_wrn16_8_layer_shapes() -> None:
    with torch.device("meta"):
        model = create_model("wrn16_8")
    shapes = [tuple(p.shape) for p in model.parameters() if p.dim() == 4]
    expected = [(16, 3, 3, 3)]
    for inside, wide in ((16, 128), (128, 256), (256, 512)):
        expected += [(wide, inside, 3, 3), (wide, wide, 3, 3), (wide, inside, 1, 1)]
        expected += [(wide, wide, 3, 3), (wide, wide, 3, 3)]
    assert shapes == expected


def test_wrn_drops_out_between_the_convolutions() -> None:
    model = create_model("wrn10_1", dropout=0.5)
    block = model.get_submodule("groups.1.0")
    seen: dict[str, Tensor] = {}
    block.get_submodule("bn2").register_forward_hook(lambda _, __, out: seen.update(before=out.detach()))
    block.get_submodule("conv2").register_forward_pre_hook(lambda _, args: seen.update(after=args[0].detach()))
    torch.manual_seed(0)
    model(torch.randn(2, 3, 32, 32))
    kept = seen["after"] != 0
    torch.testing.assert_close(seen["after"][kept], 2 * seen["before"][kept])
    assert 0.4 < kept.sum() / (seen["before"] != 0).sum() < 0.6
