"""Every registered model is built, run, differentiated and saved; mistakes are answered in one line."""

import doctest

import pytest
import torch
import torch.nn.functional as F
from small_models import narrow
from torch import Tensor, nn

import cifarfast.models
from cifarfast.errors import UserError
from cifarfast.models import create_model, list_models, model_info
from cifarfast.models.registry import find_entry

# Too slow to run on one CPU core: checked on the meta device, and through smaller members of the same family.
BIG = {"wrn28_10", "pyramidnet272_a200", "pyramidnet272_a200_shakedrop", "googlenet", "resnet50"}
SMALL_MEMBERS = ["wrn10_2", "pyramidnet14_a12", "pyramidnet14_a12_shakedrop"]
RUN = sorted({*list_models(), *SMALL_MEMBERS} - BIG)
# one of each class of models: the others differ in numbers that no image's size depends on
KINDS = [name for name in list_models() if not name.startswith(("wrn", "pyramidnet", "res15", "resnet50"))]
KINDS += SMALL_MEMBERS


def images(channels: int = 3, size: int = 32) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", RUN)
def test_forward_backward_and_state_dict(name: str) -> None:
    torch.manual_seed(1)
    model = create_model(name)
    logits = model(images())
    assert logits.shape == (2, 10)
    F.cross_entropy(logits, torch.tensor([3, 8])).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key

    other = create_model(name)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        first, second = model.eval()(images()), other.eval()(images())
    assert first.isfinite().all()
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", sorted(BIG - {"pyramidnet272_a200"}))  # what it has pyramidnet272_a200_shakedrop has
def test_big_model_trains_on_meta(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
        model(torch.empty(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (1, 45)])
@pytest.mark.parametrize("name", KINDS)
def test_channels_and_sizes(name: str, channels: int, size: int) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=47, in_channels=channels, image_size=size)
        assert model(torch.empty(2, channels, size, size)).shape == (2, 47)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("name", KINDS)
def test_smallest_image(name: str) -> None:
    entry = find_entry(name)
    smallest = entry.min_image_size
    settings = {"num_classes": 10, "in_channels": 3, **entry.options}
    with torch.device("meta"):
        assert create_model(name, image_size=smallest)(torch.empty(2, 3, smallest, smallest)).shape == (2, 10)
        if smallest > 1:
            with pytest.raises(UserError, match=f"smallest possible is {smallest}×{smallest}"):
                create_model(name, image_size=smallest - 1)
            with pytest.raises(RuntimeError):
                entry.build(image_size=smallest - 1, **settings)(torch.empty(2, 3, smallest - 1, smallest - 1))


@pytest.mark.parametrize("name", ["plain_cnn_bn", "resnet18", *SMALL_MEMBERS, "vgg16", "mobilenet_v2"])
def test_channels_last_and_autocast(name: str) -> None:
    torch.manual_seed(1)
    with narrow():
        model = create_model(name).eval()
    x = images()
    with torch.no_grad():
        expected = model(x)
        model = model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(x.contiguous(memory_format=torch.channels_last)), expected)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.train()(x)
        logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_pyramidnet_keeps_channels_last() -> None:
    model = create_model("pyramidnet14_a12").to(memory_format=torch.channels_last)
    layouts = []
    for block in model.get_submodule("groups").modules():
        if hasattr(block, "branch"):
            block.register_forward_hook(
                lambda _, __, out: layouts.append(out.is_contiguous(memory_format=torch.channels_last))
            )
    model(images().contiguous(memory_format=torch.channels_last))
    assert layouts == [True] * 6


@pytest.mark.parametrize("name", ["wrn10_2", "pyramidnet8_a6_shakedrop"])
def test_compiles_as_one_graph(name: str) -> None:
    torch.manual_seed(1)
    model = create_model(name)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(images()).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_same_seed_same_weights() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(5)
        weights.append(create_model("wrn10_1", init="kaiming_normal").state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_layers_of_recipe_a6_have_plain_names() -> None:
    names = [name for name, _ in create_model("cnn_dropout").named_parameters() if name.endswith("weight")]
    assert names == ["conv1.weight", "conv2.weight", "conv3.weight", "fc1.weight", "fc2.weight"]


def dropout_rates(model: nn.Module) -> list[float]:
    return [module.p for module in model.modules() if isinstance(module, nn.Dropout)]


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("cnn_dropout", [0.25, 0.25, 0.5]),
        ("cnn_bn", [0.5] * 3),
        ("cnn_tutorial_bn", [0.5] * 3),
        ("res5", [0.1] * 2),
        ("wrn16_8", [0.3] * 6),
        ("alexnet", [0.5] * 2),
    ],
)
def test_dropout_setting(name: str, rates: list[float]) -> None:
    with torch.device("meta"):
        assert dropout_rates(create_model(name)) == rates
        assert dropout_rates(create_model(name, dropout=0.15)) == [0.15] * len(rates)
        assert dropout_rates(create_model(name, dropout=0)) == [0] * len(rates)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnt18", {}, "unknown model 'resnt18', did you mean 'resnet18'?"),
        ("pyramid272_a20", {}, "did you mean 'pyramid272_a200'?"),
        ("qqq", {}, r"wrn\{depth\}_\{width\}"),
        ("wrn17_8", {}, r"6n \+ 4 .* got 17"),
        ("wrn16_0", {}, "width is at least 1, got 0"),
        ("pyramidnet111_a84", {}, r"9n \+ 2 .* got 111"),
        ("resnet18", {"dropout": 0.1}, "resnet18 has no dropout layer"),
        ("wrn10_1", {"dropout": 1.0}, "below 1, got 1.0"),
        ("wrn10_1", {"dropout": float("nan")}, "below 1, got nan"),
        ("linear", {"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ("linear", {"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ("linear", {"image_size": 0}, "image_size must be at least 1, got 0"),
        ("linear", {"init": "kaiming"}, "unknown initialisation 'kaiming', did you mean 'kaiming_normal'?"),
        ("lenet5", {"image_size": 27}, "lenet5 cannot take 27×27 images; the smallest possible is 28×28"),
    ],
)
def test_mistakes(name: str, settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")) as error:
        create_model(name, **settings)
    assert "\n" not in str(error.value)


def test_listing() -> None:
    names = list_models()
    assert names == sorted(names)
    assert list_models("wrn16*") == ["wrn16_8", "wrn16_8_last_bn", "wrn16_8_no_relu1"]
    assert list_models("pyramid272_a200") == ["pyramidnet272_a200"]
    assert list_models("nothing*") == []
    assert all(find_entry(name).description for name in names)


def test_alias_and_family() -> None:
    assert find_entry("pyramid272_a200").name == "pyramidnet272_a200"
    assert find_entry("wrn22_4").description == "wide ResNet, depth 22, width 4"
    assert (
        model_info("pyramidnet20_a24_shakedrop").description == "PyramidNet-20, widening 24, with ShakeDrop, P_max .5"
    )
    assert model_info("wrn40_8").parameters == 35_748_314


def test_examples_in_the_docstring() -> None:
    assert doctest.testmod(cifarfast.models).failed == 0
