"""Parameters, running statistics and multiply-accumulates against published or required values."""

import pytest
import torchvision
from torch import nn

from cifarfast.models import create_model, format_table, list_models, model_info
from cifarfast.models.pyramidnet import PyramidBlock, pyramid_widths

EXACT = {
    "linear": 30_730,
    "mlp100": 308_310,
    "lenet5": 62_006,
    "lenet": 62_006,
    "cnn_dropout": 2_159_114,
    "cnn_tutorial": 122_570,
    "wrn16_8": 10_961_370,
    "wrn16_8_no_relu1": 10_961_370,
    "wrn28_10": 36_479_194,
    "wrn40_2": 2_243_546,
    "resnet18": 11_173_962,
    "resnet50": 23_520_842,
    "vgg16": 14_728_266,
    "pyramidnet110_a48": 1_772_706,
    "pyramidnet110_a84": 3_904_446,
    "pyramidnet110_a270": 28_485_477,
    "pyramidnet164_a270": 27_216_021,
    "pyramidnet272_a200": 26_210_842,
}


@pytest.mark.parametrize(("name", "parameters"), EXACT.items())
def test_exact_parameters(name: str, parameters: int) -> None:
    assert model_info(name).parameters == parameters


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("plain_cnn_bn", 1.9e6, 0.10e9),
        ("res5", 10.4e6, 1.1e9),
        ("res15", 13.5e6, 0.71e9),
        ("wrn16_8", 10.96e6, 1.55e9),
        # 10.7 GFLOP forward and backward are six times the multiply-accumulates
        ("pyramidnet110_a150", 10.0e6, 10.7e9 / 6),
    ],
)
def test_parameters_and_macs_within_two_percent(name: str, parameters: float, macs: float) -> None:
    info = model_info(name)
    assert info.parameters == pytest.approx(parameters, rel=0.02)
    assert info.macs == pytest.approx(macs, rel=0.02)


def test_running_statistics_are_counted_apart() -> None:
    info = model_info("cnn_bn")
    assert info.buffers == 8_320
    assert info.parameters + info.buffers == 2_175_754


def test_last_bn_adds_two_scalars_a_channel() -> None:
    added = model_info("wrn16_8_last_bn").parameters - model_info("wrn16_8").parameters
    assert added == 2 * 2 * (128 + 256 + 512)


def test_mobilenet_has_the_parameters_of_the_imagenet_network() -> None:
    reference = torchvision.models.mobilenet_v2(weights=None, num_classes=10)
    assert model_info("mobilenet_v2").parameters == sum(p.numel() for p in reference.parameters())


def test_googlenet_has_the_parameters_of_the_common_form_less_the_biases() -> None:
    model = create_model("googlenet")
    biases = sum(module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d))
    assert sum(p.numel() for p in model.parameters()) + biases == 6_166_250


def test_macs_of_a_convolution_and_a_dense_layer() -> None:
    convolutions = 28 * 28 * 6 * 75 + 10 * 10 * 16 * 150 + 120 * 400
    assert model_info("lenet5").macs == convolutions + 120 * 84 + 84 * 10


def test_info_follows_the_settings() -> None:
    info = model_info("linear", num_classes=47, in_channels=1, image_size=28)
    assert info.parameters == 784 * 47 + 47
    assert info.macs == 784 * 47


def test_pyramid_channel_ranges() -> None:
    widths = pyramid_widths(54, 150)
    assert [widths[17], widths[35], widths[53]] == [66, 116, 166]
    model = create_model("pyramidnet110_a150")
    blocks = [module for module in model.modules() if isinstance(module, PyramidBlock)]
    assert len(blocks) == 54
    convs = [[m for m in block.modules() if isinstance(m, nn.Conv2d)] for block in blocks]
    assert [pair[0].in_channels for pair in convs] == [16, *widths[:-1]]
    assert [pair[1].out_channels for pair in convs] == widths
    assert [i for i, pair in enumerate(convs) if pair[0].stride == (2, 2)] == [18, 36]
    assert {b - a for a, b in zip([16, *widths], widths, strict=False)} == {2, 3}


def test_table_is_aligned_and_complete() -> None:
    names = [*list_models("wrn*"), "linear"]
    lines = format_table(model_info(name) for name in names).splitlines()
    assert lines[0].split() == ["name", "parameters", "MACs", "description"]
    assert [line.split()[0] for line in lines[1:]] == names
    column = lines[0].index("description")
    assert all(line[column - 2 : column] == "  " and line[column] != " " for line in lines)
    assert lines[names.index("wrn16_8") + 1].split()[1:3] == ["10,961,370", "1,548,145,664"]
