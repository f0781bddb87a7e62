"""Fused models on the ops' kernels: which ops run, in Triton's interpreter, and on a GPU."""

import copy
import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from fused_models import assert_within_error, create_pair, make_images, padding, run
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cifarfast.kernels import backend, share_randomness
from cifarfast.models import create_model, fuse
from cifarfast.models.fused import layers
from cifarfast.optim import unmoved_statistics

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ROOT = Path(__file__).parents[2]


class CountOps(TorchDispatchMode):
    """Counts calls of operators by name; apart those that make statistics for the batch norm after them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        settings = dict(zip((argument.name for argument in function._schema.arguments), args, strict=False))
        makes = " with statistics" if settings.get("wants_statistics") else ""
        self.calls[function.overloadpacket._qualified_op_name + makes] += 1
        return function(*args, **(kwargs or {}))


def ops_of_a_step(name: str, **settings: float) -> tuple[Counter[str], Counter[str]]:
    """Operators of a fused model's forward and backward, on tensors without storage."""
    with torch.device("meta"):
        model = fuse(create_model(name, **settings))
        share_randomness(model, *torch.zeros(2, dtype=torch.int64).unbind())
        images = torch.empty(4, 8, 32, 32)
    with CountOps() as forward:
        logits = model(images)
    with CountOps() as backward:
        logits.sum().backward()
    return forward.calls, backward.calls


def test_ops_of_a_wide_resnet() -> None:
    """Convolutions by the library: no batch norm runs apart from its ReLU, the last not from the pooling either.

    Of six sums one is left, before the pooling; of six sums of gradients those of the two convolutions that read the
    first BN-ReLU of a projecting block.
    """
    for settings in ({}, {"dropout": 0.0}):
        forward, backward = ops_of_a_step("wrn16_8", **settings)
        assert forward["aten::convolution"] == backward["aten::convolution_backward"] == 16
        assert forward["cifarfast::batch_norm_statistics"] == 13 - 5
        assert forward["cifarfast::add_batch_norm_act"] == 5
        assert forward["cifarfast::batch_norm_act"] == 12 - 5
        assert backward["cifarfast::batch_norm_act_backward"] == 12
        assert forward["cifarfast::global_avg_pool_act"] == backward["cifarfast::global_avg_pool_act_backward"] == 1
        assert forward["aten::add"] == 1
        assert backward["aten::add"] + backward["aten::add_"] == 3
        apart = {"aten::native_batch_norm", "aten::relu", "aten::mean", "aten::native_dropout", "cifarfast::dropout"}
        assert not apart & set(forward)


@pytest.fixture
def convolution_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions by the ops' own kernels, wherever they fit."""
    monkeypatch.setattr(layers, "_has_kernel", lambda op, x, weight, conv: conv.fits_ops)


@pytest.mark.usefixtures("convolution_kernels")
def test_ops_of_a_wide_resnet_with_convolution_kernels() -> None:
    forward, _ = ops_of_a_step("wrn16_8", dropout=0.0)
    assert forward["cifarfast::bn_act_conv2d"] == 9 - 3
    assert forward["cifarfast::bn_act_conv2d with statistics"] == 3  # first of a block without projection
    assert forward["cifarfast::conv2d with statistics"] == 3
    assert forward["cifarfast::batch_norm_act"] == 3 - 2  # first of a projecting block, where no sum comes before
    assert forward["aten::convolution"] == 4  # stem and projections
    # six get their statistics from the convolution before them, two from the sum
    assert forward["cifarfast::batch_norm_statistics"] == 13 - 6 - 2
    assert forward["cifarfast::add_batch_norm_act"] == 2
    assert forward["aten::add"] == 6 - 2
    forward, _ = ops_of_a_step("wrn16_8")
    assert forward["cifarfast::bn_act_conv2d"] == 3
    assert forward["cifarfast::batch_norm_act"] == 3 - 2 + 6
    assert forward["cifarfast::batch_norm_statistics"] == 13 - 2


PYRAMIDNET = "pyramidnet20_a24_shakedrop"


def test_ops_of_a_pyramidnet() -> None:
    """Tails hand the statistics of their sums on: what is left is the first block's, and those inside the branches,
    where the library's convolution comes before."""
    forward, backward = ops_of_a_step(PYRAMIDNET)
    assert forward["aten::convolution"] == 19
    assert forward["cifarfast::batch_norm_act"] == 19
    assert forward["cifarfast::shakedrop_bn_shortcut with statistics"] == 9
    assert backward["cifarfast::shakedrop_bn_shortcut_backward"] == 9
    assert forward["cifarfast::batch_norm_statistics"] == 19 + 9 + 1 - 9
    assert backward["cifarfast::batch_norm_act_backward"] == 19
    assert not {"aten::stack", "aten::cat"} & set(forward)
    assert not {"aten::stack", "aten::add", "aten::add_", "aten::mul"} & set(backward)
    for calls in (forward, backward):
        assert not {"aten::native_batch_norm", "aten::constant_pad_nd", "aten::avg_pool2d", "aten::relu"} & set(calls)


@pytest.mark.usefixtures("convolution_kernels")
def test_ops_of_a_pyramidnet_with_convolution_kernels() -> None:
    forward, backward = ops_of_a_step(PYRAMIDNET)
    assert forward["cifarfast::bn_act_conv2d with statistics"] == 18
    assert forward["cifarfast::conv2d_bn_act"] == 1
    assert forward["cifarfast::batch_norm_act"] == forward["aten::convolution"] == 0
    assert forward["cifarfast::batch_norm_statistics"] == 1
    assert backward["aten::add"] + backward["aten::add_"] == 0


@pytest.mark.usefixtures("convolution_kernels")
def test_a_frozen_norm_is_handed_no_statistics() -> None:
    """In evaluation a batch norm normalises by its running statistics, which stay as they are."""
    with torch.device("meta"):
        model = fuse(create_model(PYRAMIDNET))
        share_randomness(model, *torch.zeros(2, dtype=torch.int64).unbind())
        images = torch.empty(4, 8, 32, 32)
    freeze_norms(model)
    model.groups[-1][-1].branch[-1].eval()
    with CountOps() as forward:
        model(images)
    assert forward.calls["cifarfast::running_statistics"] == 9 + 3 + 1
    assert forward.calls["cifarfast::shakedrop_bn_shortcut"] == 9 - 1
    assert forward.calls["cifarfast::shakedrop_bn_shortcut with statistics"] == 1
    assert forward.calls["cifarfast::bn_act_conv2d with statistics"] == 18 - 3 - 1
    assert not forward.calls["cifarfast::batch_norm_statistics"]


def freeze_norms(model: nn.Module) -> None:
    """Those that begin a PyramidNet's blocks, in the second group those between its convolutions too."""
    for name, module in model.named_modules():
        if is_frozen(name):
            module.eval()


def is_frozen(name: str) -> bool:
    return ".branch.0" in name or (name.startswith("groups.1.") and ".branch.2" in name)


def test_ops_of_other_networks() -> None:
    forward, _ = ops_of_a_step("resnet18")
    assert forward["cifarfast::batch_norm_act"] == forward["aten::convolution"] == 20
    assert not {"aten::add", "aten::relu", "aten::native_batch_norm"} & set(forward)
    forward, _ = ops_of_a_step("plain_cnn_bn")
    assert forward["cifarfast::max_pool_bn_act"] == 3
    assert forward["cifarfast::global_avg_pool_act"] == 1
    assert not {"aten::max_pool2d_with_indices", "aten::relu", "aten::native_batch_norm"} & set(forward)


INTERPRETED_MODELS = [("wrn10_1", {"dropout": 0.0}), ("pyramidnet8_a5_shakedrop", {})]


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="already interpreted")
def test_in_the_interpreter() -> None:
    """Triton decides when it is imported whether kernels are interpreted: this needs a process of its own."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-k", "interpreted", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1", backend.BACKEND_VARIABLE: "triton"}
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{4 * len(INTERPRETED_MODELS) + 1} passed" in result.stdout, result.stdout


@pytest.mark.skipif(not INTERPRETED, reason="needs TRITON_INTERPRET=1; test_in_the_interpreter sets it")
@pytest.mark.parametrize("convolutions", ["kernels", "library", "first kernels", "last kernels"])
@pytest.mark.parametrize(("name", "settings"), INTERPRETED_MODELS)
def test_interpreted(name: str, settings: dict[str, float], convolutions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()
    if convolutions != "kernels":  # of two convolutions in a row both, one or the other may have a kernel
        has_one = {"library": (), "first kernels": (1,), "last kernels": (0,)}[convolutions]
        monkeypatch.setattr(
            layers, "_has_kernel", lambda op, x, weight, conv: conv.fits_ops and next(calls) % 2 in has_one
        )
    plain, fused = create_pair(name, **settings)
    images = make_images(8, count=2).contiguous(memory_format=torch.channels_last)
    truth = run(copy.deepcopy(plain).double(), images.double())
    assert_within_error(run(fused, images), run(plain, images), truth, tiny=1e-5, kinks=0.02)
    assert_padding_is_zero(fused)


@pytest.mark.skipif(not INTERPRETED, reason="needs TRITON_INTERPRET=1; test_in_the_interpreter sets it")
def test_interpreted_with_frozen_norms() -> None:
    """Their running statistics stay, and those of the others move once, as in the plain model."""
    plain, fused = create_pair("pyramidnet8_a5_shakedrop")
    for model in (plain, fused):
        freeze_norms(model)
    images = make_images(8, count=2).contiguous(memory_format=torch.channels_last)
    truth = run(copy.deepcopy(plain).double(), images.double())
    assert_within_error(run(fused, images), run(plain, images), truth, tiny=1e-5, kinks=0.02)
    counts = {name: value.item() for name, value in fused.state_dict().items() if name.endswith("tracked")}
    assert counts == {name: int(not is_frozen(name)) for name in counts}
    before = {name: value.clone() for name, value in fused.state_dict().items() if "running" in name}
    with unmoved_statistics(fused):
        run(fused, images)
    state = fused.state_dict()
    assert all(torch.equal(state[name], value) for name, value in before.items())
    assert {name: state[name].item() for name in counts} == counts


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("forced", ["", "triton"])
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("wrn16_8", {}),
        ("wrn16_8", {"dropout": 0.0}),
        ("pyramidnet110_a150_shakedrop", {}),
        ("resnet18", {}),
        ("plain_cnn_bn", {}),
    ],
)
def test_bfloat16_on_a_gpu(
    name: str, settings: dict[str, float], train: bool, forced: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if forced:
        monkeypatch.setenv(backend.BACKEND_VARIABLE, forced)
    pair = create_pair(name, whole=True, image_size=32, **settings)
    plain, fused = (model.cuda().to(memory_format=torch.channels_last).train(train) for model in pair)
    images = make_images(32, count=16).cuda().contiguous(memory_format=torch.channels_last)
    expected, found = (run(model, images, autocast=torch.bfloat16) for model in (plain, fused))
    truth = run(copy.deepcopy(plain).double(), images.double())
    assert {name: value.dtype for name, value in found.items()} == {name: v.dtype for name, v in expected.items()}
    assert_within_error(found, expected, truth, tiny=1e-2, kinks=1e-2)
    assert_padding_is_zero(fused)


def assert_padding_is_zero(model: nn.Module) -> None:
    parameters = dict(model.named_parameters())
    gradients = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
    for tensors in (parameters, gradients, dict(model.named_buffers())):
        behind = padding(model, tensors)
        assert torch.all(behind == 0)
