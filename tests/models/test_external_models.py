"""``torchvision:NAME`` and ``timm:NAME``."""

import sys

import pytest
import torch
from mistakes import refused
from torch import nn

from cifarfast.models import create_model, model_info
from cifarfast.models.external import replace_first_conv


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a model tried to download weights")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


def test_torchvision_model_trains() -> None:
    model = create_model("torchvision:resnet18", num_classes=7)
    logits = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert model_info("torchvision:resnet18").parameters == 11_181_642


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_torchvision_models_with_auxiliary_heads_return_logits(name: str) -> None:
    model = create_model(f"torchvision:{name}", image_size=96).to("meta").train()
    assert model(torch.empty(2, 3, 96, 96, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_torchvision_other_channels(name: str, channels: int) -> None:
    model = create_model(f"torchvision:{name}", in_channels=channels, image_size=32).to("meta")
    assert model(torch.empty(2, channels, 32, 32, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_new_first_convolution_answers_a_grey_image_as_before(channels: int) -> None:
    old = nn.Conv2d(3, 8, 5, stride=2, padding=2)
    model = nn.Sequential(nn.Sequential(old))
    grey = torch.randn(2, 1, 12, 12)
    if channels == 5:
        nn.init.constant_(old.weight, 0.1)  # repeating three channels over five is exact for equal weights only
    expected = model(grey.expand(-1, 3, -1, -1))
    replace_first_conv(model, channels)
    torch.testing.assert_close(model(grey.expand(-1, channels, -1, -1)), expected)
    assert list(model.state_dict()) == ["0.0.weight", "0.0.bias"]


def test_torchvision_settings() -> None:
    model = create_model("torchvision:mobilenet_v2", dropout=0.4, init="kaiming_normal")
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.4]
    assert torch.all(model.get_parameter("classifier.1.bias") == 0)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("torchvision:resnet19", {}, "no classification model 'resnet19', did you mean 'resnet18'"),
        ("torchvision:fcn_resnet50", {}, "no classification model 'fcn_resnet50'"),
        ("torchvision:resnet18", {"dropout": 0.1}, "torchvision:resnet18 has no dropout layer"),
        ("torchvision:squeezenet1_1", {"image_size": 16}, "does not take 16×16 images; the smallest possible is 17×17"),
        ("torchvison:resnet18", {}, "unknown model 'torchvison:resnet18'"),
        ("timm:resnet10x", {}, "timm has no model 'resnet10x', did you mean"),
        ("timm:vit_tiny_patch16_224", {}, "the smallest possible is 224×224"),
    ],
)
def test_mistakes(name: str, settings: dict[str, float], message: str) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    with refused(message):
        create_model(name, **settings)


def test_timm_model_trains() -> None:
    pytest.importorskip("timm")
    model = create_model("timm:resnet10t", num_classes=7, in_channels=1, image_size=28, dropout=0.2)
    logits = model(torch.randn(2, 1, 28, 28))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    info = model_info("timm:resnet10t", num_classes=7)
    assert info.description == "resnet10t of timm"
    assert info.macs > 0


def test_timm_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with refused("pip install cifarfast[timm]"):
        create_model("timm:resnet18")
