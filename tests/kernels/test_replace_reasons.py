"""What ``replace_modules`` leaves alone, and the reasons that it gives."""

import copy

import pytest
import torch
from replace_models import UsedElsewhere, build, conv_bn_relu
from torch import Tensor, nn

from cifarfast.kernels import replace_modules
from cifarfast.kernels.replace import ReplaceReport


def reason(report: ReplaceReport, name: str) -> str:
    return next(entry.reason for entry in report.left if entry.name == name)


AFTER = "the activation after it cannot be replaced: "


def bn_and(module: nn.Module) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(8), module)


class FunctionalActivation(nn.Module):
    """A batch norm whose activation is a function."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(x))


class Twice(nn.Module):
    """A batch norm whose output has two uses."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.act = nn.BatchNorm2d(8), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(x)
        return self.act(y) + y


class Decides(nn.Module):
    """A forward that looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.act = nn.BatchNorm2d(8), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(x)) if x.sum() > 0 else x


class Draws(Decides):
    """A forward that draws a number."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(x)) if torch.rand(()) < 2 else x


class InTrainingOnly(Decides):
    """An activation in training only."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(x)
        return self.act(x) if self.training else x


class Remembers(Decides):
    """A forward that keeps what it computes."""

    last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.bn(x)
        return self.act(self.last)


def hooked() -> nn.Module:
    model = conv_bn_relu(8, 8)
    model[1].register_forward_hook(lambda module, args, out: None)
    return model


def registered_twice() -> nn.Module:
    bn = nn.BatchNorm2d(8)
    return nn.Sequential(bn, nn.ReLU(), bn, nn.ReLU())


def overridden() -> nn.Module:
    model = bn_and(nn.ReLU())
    model[1].forward = lambda x: x
    return model


def parametrized() -> nn.Module:
    model = conv_bn_relu(8, 8)
    nn.utils.parametrizations.weight_norm(model[0])
    return model


LEFT = {
    "functional": (FunctionalActivation, "bn", "after it comes the function relu, not an activation module"),
    "two uses": (Twice, "bn", "its output is used in 2 places"),
    "by value": (Decides, "bn", "the forward of the model cannot be followed"),
    "by chance": (Draws, "bn", "the forward of the model cannot be followed: it computes with tensors of its own"),
    "by mode": (InTrainingOnly, "bn", "what it is used for differs between training and eval"),
    "hooked": (hooked, "1", "it has hooks"),
    "registered twice": (registered_twice, "0", "it is registered under several names"),
    "overridden": (overridden, "0", f"{AFTER}its forward was overridden"),
    "used elsewhere": (UsedElsewhere, "bn", "the activation after it, act, is used where there is no batch norm too"),
    "and its activation": (UsedElsewhere, "act", "it is used where there is no batch norm too"),
    "1d": (lambda: nn.Sequential(nn.BatchNorm1d(8), nn.ReLU()), "0", "it is a BatchNorm1d; only BatchNorm2d"),
    "activation": (lambda: bn_and(nn.ReLU6()), "0", f"{AFTER}it is a ReLU6, which is not one of relu, "),
    "alpha": (lambda: bn_and(nn.ELU(0.5)), "0", f"{AFTER}its alpha must be 1, it is 0.5"),
    "slope": (lambda: bn_and(nn.LeakyReLU(-1)), "0", f"{AFTER}its slope must be at least 0, it is -1"),
    "tanh gelu": (lambda: bn_and(nn.GELU("tanh")), "0", f"{AFTER}it must be the exact gelu, it is the tanh one"),
    "that activation": (lambda: bn_and(nn.GELU("tanh")), "1", "it must be the exact gelu, it is the tanh one"),
    "no activation": (lambda: bn_and(nn.Flatten()), "0", "no activation comes after it"),
    "momentum": (lambda: nn.Sequential(nn.BatchNorm2d(8, momentum=2.0), nn.ReLU()), "0", "its momentum must lie in"),
    "groups": (lambda: conv_bn_relu(8, 8, groups=2), "0", "groups must be 1, it is 2"),
    "kernel": (lambda: conv_bn_relu(8, 8, 5), "0", "kernel_size must be 1 or 3, it is (5, 5)"),
    "stride": (lambda: conv_bn_relu(8, 8, stride=3), "0", "stride must be 1 or 2, it is (3, 3)"),
    "dilation": (lambda: conv_bn_relu(8, 8, dilation=2), "0", "dilation must be 1, it is (2, 2)"),
    "padding": (lambda: conv_bn_relu(8, 8, padding=1, padding_mode="reflect"), "0", "padding must be two equal"),
    "same": (lambda: conv_bn_relu(8, 8, padding="same"), "0", "padding must be two equal numbers of zeros, it is same"),
    "channels": (lambda: conv_bn_relu(3, 8), "0", "in_channels must be a multiple of 8, it is 3"),
    "parametrized": (parametrized, "0", "it is a ParametrizedConv2d"),
    "bias": (lambda: nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU()), "0", "it has a bias"),
    "3×3 pooling": (lambda: nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3)), "2", "kernel_size must be 2"),
    "indices": (
        lambda: nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2, return_indices=True)),
        "2",
        "return_indices must be False",
    ),
    "lone activation": (lambda: nn.Sequential(nn.ReLU()), "0", "no batch norm that can be fused comes before it"),
    "lone convolution": (lambda: nn.Sequential(nn.Conv2d(8, 8, 1)), "0", "no batch norm that can be fused comes after"),
    "never called": (lambda: nn.ModuleList([nn.BatchNorm2d(8)]), "0", "nothing is known to call it"),
    "loss of another kind": (
        lambda: nn.Sequential(type("MyLoss", (nn.CrossEntropyLoss,), {})()), "0", "it is a MyLoss"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LEFT)
def test_what_is_left_has_its_reason(kind: str) -> None:
    make, name, expected = LEFT[kind]
    model = make()
    assert expected in reason(replace_modules(model), name)


@pytest.mark.parametrize(
    "activation",
    [
        *(nn.CELU(), nn.Hardshrink(), nn.Hardsigmoid(), nn.Hardswish(), nn.Hardtanh(), nn.LogSigmoid(), nn.Mish()),
        *(nn.PReLU(), nn.RReLU(), nn.ReLU6(), nn.Softplus(), nn.Softshrink(), nn.Tanhshrink(), nn.Threshold(0, 0)),
        *(nn.GLU(1), type("MyReLU", (nn.ReLU,), {})()),
    ],
    ids=lambda activation: type(activation).__name__,
)
def test_every_activation_is_listed(activation: nn.Module) -> None:
    """The convolution and the batch norm before one that no op has are fused without it."""
    torchs = nn.Sequential(nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16), activation).eval()
    ours = copy.deepcopy(torchs)
    report = replace_modules(ours)
    assert [(entry.names, entry.op) for entry in report.replaced] == [(("0", "1"), "conv2d_bn_act")]
    assert reason(report, "2").startswith(f"it is a {type(activation).__name__}, which is not one of relu, leaky_relu,")
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(ours(x), torchs(x), rtol=1e-5, atol=1e-5)


def test_activations_of_timm_are_listed() -> None:
    activations = pytest.importorskip("timm.layers.activations")
    report = replace_modules(nn.Sequential(nn.BatchNorm2d(8), activations.HardSwish()))
    assert reason(report, "0").startswith(f"{AFTER}it is a HardSwish, which is not one of")
    assert reason(report, "1").startswith("it is a HardSwish, which is not one of")


def test_activation_inside_timms_batch_norm() -> None:
    """It cannot be left out as one after the batch norm can."""
    layers = pytest.importorskip("timm.layers")
    conv = nn.Conv2d(8, 8, 1, bias=False)
    report = replace_modules(nn.Sequential(conv, layers.BatchNormAct2d(8, act_layer=nn.Hardswish)))
    assert not report.replaced
    assert reason(report, "1").startswith("its activation cannot be replaced: it is a Hardswish, which is not one of")


@pytest.mark.parametrize("kind", ["two uses", "by mode", "registered twice", "used elsewhere", "overridden"])
def test_what_is_left_works_as_before(kind: str) -> None:
    torch.manual_seed(0)
    torchs = LEFT[kind][0]()
    ours = copy.deepcopy(torchs)
    replace_modules(ours)
    for training in (True, False):
        x = torch.randn(2, 8, 5, 5)
        torch.testing.assert_close(ours.train(training)(x), torchs.train(training)(x), rtol=1e-5, atol=1e-5)


def test_following_leaves_no_trace() -> None:
    model = Remembers()
    replace_modules(model)
    assert model.last is None
    assert "last" not in vars(model)
    x = torch.randn(2, 8, 3, 3)
    assert model(x) is not None
    assert isinstance(model.last, Tensor)


def test_hooks_of_a_block_are_kept() -> None:
    model, x = build("torchvision basic blocks")
    expected = copy.deepcopy(model)(x)
    shapes = []
    model.layer1[0].register_forward_hook(lambda module, args, out: shapes.append(out.shape))
    report = replace_modules(model)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    assert len(shapes) == 1
    inside = [path for entry in report.replaced for path in entry.names if path.startswith("layer1.0.")]
    assert inside == ["layer1.0.conv2", "layer1.0.bn2"]


def test_a_block_with_a_hook_inside_is_fused_around_it() -> None:
    torchs, x = build("torchvision basic blocks")
    ours = copy.deepcopy(torchs)
    seen = []
    ours.layer1[0].bn1.register_forward_hook(lambda module, args, out: seen.append(out))
    report = replace_modules(ours)
    assert reason(report, "layer1.0.bn1") == "it has hooks"
    assert any("layer1.0.bn2" in entry.names for entry in report.replaced)
    torch.testing.assert_close(ours(x), torchs(x), rtol=1e-4, atol=1e-4)
    assert len(seen) == 1
