"""Fused models against the plain ones: same weights, same results."""

import copy
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from fused_models import Results, assert_within_error, create_pair, joined, make_images, rms, run, smallest_image
from torch import nn

from cifarfast.models import create_model, fuse, list_models, stored_in_channels, true_shapes

UNFUSED = ["alexnet", "cnn_dropout", "cnn_tutorial", "lenet", "lenet5", "linear", "mlp100", "plain_cnn"]
# PyramidNets with few blocks stand for the deep ones, that with bottlenecks for pyramidnet272
PYRAMIDS = ["pyramidnet14_a13", "pyramidnet14_a13_shakedrop", "pyramidnet119_a31_shakedrop"]
FUSED = [name for name in list_models() if name not in UNFUSED and not name.startswith("pyramidnet")]


def assert_equal_in_float64(found: Results, expected: Results) -> None:
    """Every value; the tolerance is far below what rounding in fp32 would do."""
    assert list(found) == list(expected)
    gradients = rms(joined(expected, "gradient"))
    for name, value in expected.items():
        floor = gradients if name.startswith("gradient") else 0.0  # that of a bias before a batch norm is 0
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-8 * max(rms(value), floor), msg=name)


# in evaluation the blocks with bottlenecks do what the others do
@pytest.mark.parametrize(
    ("name", "train"),
    [*product([*FUSED, "wrn10_1", *PYRAMIDS[:2]], (True, False)), (PYRAMIDS[2], True)],
)
def test_same_results(name: str, train: bool) -> None:
    pair = [model.train(train) for model in create_pair(name)]
    images = make_images(smallest_image(name))
    exact = [run(copy.deepcopy(model).double(), images.double()) for model in pair]
    assert_equal_in_float64(exact[1], exact[0])
    rounded = [run(model, images) for model in pair]
    assert_within_error(rounded[1], rounded[0], exact[0], tiny=1e-5, kinks=0.02)


@pytest.mark.parametrize("name", ["wrn10_1", "pyramidnet14_a13", "resnet18", "plain_cnn_bn", "vgg16"])
@pytest.mark.parametrize(("size", "channels"), [(13, 1), (12, 3)])
def test_other_images_in_channels_last(name: str, size: int, channels: int) -> None:
    pair = create_pair(name, in_channels=channels, image_size=size)
    images = make_images(size, channels=channels).contiguous(memory_format=torch.channels_last)
    results = [run(model.double().to(memory_format=torch.channels_last), images.double()) for model in pair]
    assert_equal_in_float64(results[1], results[0])


@pytest.mark.parametrize(
    ("name", "settings", "train"),
    [
        *(("wrn16_2", settings, train) for settings, train in product(({}, {"dropout": 0.0}), (True, False))),
        *((name, {}, train) for name, train in product(PYRAMIDS[:2], (True, False))),
        (PYRAMIDS[2], {}, True),
    ],
)
def test_bfloat16_under_autocast(name: str, settings: dict[str, float], train: bool) -> None:
    plain, fused = (model.train(train) for model in create_pair(name, **settings))
    images = make_images(8, count=8)
    truth = run(copy.deepcopy(plain).double(), images.double())
    expected, found = (run(model, images, autocast=torch.bfloat16) for model in (plain, fused))
    assert {name: value.dtype for name, value in found.items()} == {name: v.dtype for name, v in expected.items()}
    assert found["logits"].dtype == torch.bfloat16
    assert_within_error(found, expected, truth, tiny=1e-2, kinks=1e-2)


@pytest.mark.parametrize("name", ["wrn10_1", "pyramidnet14_a13_shakedrop", "vgg16"])
def test_weights_in_bfloat16(name: str) -> None:
    """A copy of the matrices in half precision, norms and biases in fp32: what autocast computes, without autocast."""
    fused = create_pair(name)[1]
    images = make_images(8)
    expected = run(copy.deepcopy(fused), images, autocast=torch.bfloat16)
    for module in fused.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data = module.weight.data.bfloat16()
    found = run(fused, images.bfloat16())
    for key, value in expected.items():
        torch.testing.assert_close(found[key].to(value.dtype), value, rtol=0.02, atol=1e-2 * rms(value), msg=key)
    torch.testing.assert_close(found["logits"], expected["logits"], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["wrn10_1", "pyramidnet14_a13", "resnet18"])
def test_frozen_and_untracked_batch_norms(name: str) -> None:
    """Some batch norms in eval mode, some that leave their buffers alone, in a model that trains."""
    pair = create_pair(name)
    images = make_images(8)
    for model in pair:
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for index, module in enumerate(norms):
            module.train(index % 3 != 0)
            module.track_running_stats = index % 3 != 1
    results = [run(model.double(), images.double()) for model in pair]
    assert_equal_in_float64(results[1], results[0])


def test_running_statistics_move_once_a_step() -> None:
    plain, fused = create_pair("wrn16_1")
    for model in (plain, fused):
        run(model, make_images(8))
        run(model, make_images(8))
    counts = {key: value.item() for key, value in fused.state_dict().items() if key.endswith("num_batches_tracked")}
    assert set(counts.values()) == {2}
    assert len(counts) == sum(isinstance(module, nn.BatchNorm2d) for module in plain.modules())


@pytest.mark.parametrize("name", ["wrn10_1", "pyramidnet8_a5_shakedrop"])
def test_compiles_as_one_graph(name: str) -> None:
    fused = create_pair(name, **({"dropout": 0.0} if name.startswith("wrn") else {}))[1]
    images = make_images(8)
    expected = run(copy.deepcopy(fused), images)
    compiled = torch.compile(fused, backend="aot_eager", fullgraph=True)
    run(fused, images)  # sets the random numbers' source, which the graph reads
    fused.load_state_dict(create_pair(name)[1].state_dict())
    fused.zero_grad()
    logits = compiled(images)
    F.cross_entropy(logits, torch.arange(4)).backward()
    torch.testing.assert_close(logits.detach(), expected["logits"])
    for key, parameter in fused.named_parameters():
        assert parameter.grad is not None
        if key not in true_shapes(fused):
            torch.testing.assert_close(parameter.grad, expected[f"gradient {key}"], atol=1e-5, rtol=1e-3)
    for key, value in fused.state_dict().items():
        if "running" in key:
            torch.testing.assert_close(value, expected[key])


def test_image_that_is_padded_already() -> None:
    fused = create_pair("pyramidnet14_a13")[1].eval()
    images = make_images(8)
    stored = stored_in_channels(fused)
    assert stored == 8
    padded = F.pad(images, (0, 0, 0, 0, 0, stored - 3))
    assert torch.equal(fused(padded), fused(images))


@pytest.mark.parametrize("channels", [1, 4, 9])
@pytest.mark.parametrize("name", ["wrn10_1", "pyramidnet14_a13", "cnn_bn"])
def test_image_with_other_channels_is_an_error(name: str, channels: int) -> None:
    fused = create_pair(name)[1].eval()
    with pytest.raises(RuntimeError, match=f"{channels} channels"):
        fused(make_images(8, channels=channels))


def test_stored_in_channels() -> None:
    assert [stored_in_channels(create_model(name)) for name in ("wrn10_1", "linear", "mlp100")] == [3, 3, 3]
    assert stored_in_channels(create_model("linear", in_channels=1)) == 1
    assert stored_in_channels(fuse(create_model("resnet18", in_channels=1))) == 8


@pytest.mark.parametrize("name", UNFUSED)
def test_nothing_to_fuse(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    before = [type(module) for module in model.modules()]
    assert fuse(model) is model
    assert [type(module) for module in model.modules()] == before
    assert not true_shapes(model)


def test_fusing_twice_is_fusing_once() -> None:
    fused = create_pair("pyramidnet14_a13")[1]
    before = [type(module) for module in fused.modules()]
    shapes = true_shapes(fused)
    assert fuse(fused) is fused
    assert [type(module) for module in fused.modules()] == before
    assert true_shapes(fused) == shapes
