"""Callers' mistakes: every argument of every op with a wrong layout, device, rank, dtype, length or value is named."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import cifarfast.kernels as k
from cifarfast.kernels import FLAT_BLOCK, flat_scalars, flat_table
from cifarfast.kernels.testing.spec import Inputs, SampleMaker, all_specs

MAKE = SampleMaker(torch.float32)
TABLE = flat_table([1000, 30])
P = TABLE.length


def _flat(*buffers: str, **others: Any) -> Inputs:
    return {name: torch.ones(P) for name in buffers} | others


def _batch_norm(inputs: Inputs) -> Inputs:
    """With all that an op may be given."""
    lead = inputs["h" if "h" in inputs else "x" if "x" in inputs else "a"]
    more = {"num_batches_tracked": torch.tensor(1), "statistics": torch.zeros(3, lead.shape[1])}
    more |= {"residual": torch.zeros_like(lead), **SampleMaker(torch.float32).counters(len(lead))}
    return inputs | more | {"running_mean": torch.zeros(lead.shape[1]), "running_var": torch.ones(lead.shape[1])}


HARD = {"labels": MAKE.integers(10, 4), "labels_b": MAKE.integers(10, 4), "lam": MAKE.rand(4)}
# of these functions the arguments are not their OpSpec's
CALLS: dict[str, tuple[Callable[..., Any], Inputs]] = {
    "cross_entropy": (k.cross_entropy, {"logits": MAKE.randn(4, 10), **HARD, "weight": torch.ones(10)}),
    "flat_adam_step": (
        k.flat_adam_step,
        _flat("master", "grad", "exp_avg", "exp_avg_sq", "ema", "copy", table=TABLE, scalars=flat_scalars(lr=0.1)),
    ),
    "flat_grad_norm": (k.flat_grad_norm, _flat("grad", table=TABLE)),
    "flat_asam_norm": (k.flat_asam_norm, _flat("master", "grad", table=TABLE)),
    "flat_clip": (k.flat_clip, _flat("grad", table=TABLE, scalars=flat_scalars(lr=0.1), max_norm=1.0)),
}
for _spec in all_specs():
    if _spec.name not in (*CALLS, "flat_norm", "flat_optimizer"):
        _function = getattr(k, _spec.name)
        _inputs = next(iter(_spec.cases.values()))(MAKE)
        if "running_mean" in _inputs:
            known = inspect.signature(_function).parameters
            _inputs = {name: value for name, value in _batch_norm(_inputs).items() if name in known}
        CALLS[_spec.name] = (_function, _inputs)
        if _spec.name == "conv2d_bn_act":
            channels = len(_inputs["conv_weight"])
            _inputs["residual"] = torch.zeros(2, channels, 5, 5)
            _inputs["running_mean"], _inputs["running_var"] = torch.zeros(channels), torch.ones(channels)


# what others are measured by: where one is wrong another argument may be named
LEADS = ("h", "a", "x", "logits", "branch", "master")
IMAGES = ("h", "a", "b", "x", "residual")


def _kinds(name: str, value: Tensor) -> Iterator[Tensor]:
    """Of another layout, device, rank, dtype and length, and what else a buffer must not be."""
    yield value.to_sparse()
    if name != "grad":  # which may be all that a function gets
        yield value.to("meta")
    if name != "norm":  # one element is enough
        yield value[None]
    yield value.int() if value.is_floating_point() else value.double()
    if value.dim() and name not in LEADS:
        yield torch.cat([value, value[:1]])
        yield torch.cat([value, value], dim=-1)[..., : value.shape[-1] + 1]
    if name in ("running_mean", "running_var", "statistics"):
        yield value.clone().requires_grad_()
    if name in ("running_mean", "running_var", "scalars", "master"):
        yield value.repeat_interleave(2)[::2]
    if name in ("statistics", "master", "ema", "exp_avg"):
        yield value.bfloat16()


TENSORS = [(op, name) for op, (_, inputs) in CALLS.items() for name in inputs if isinstance(inputs[name], Tensor)]


@pytest.mark.parametrize(("op", "name"), TENSORS)
def test_a_tensor_of_a_wrong_kind(op: str, name: str) -> None:
    function, inputs = CALLS[op]
    for wrong in _kinds(name, inputs[name]):
        other = name in LEADS and (wrong.is_meta or wrong.dim() > inputs[name].dim())
        named = r"\w+" if other else "grad|table" if name == "grad" else name
        with pytest.raises(ValueError, match=f"^({named}) must"):
            function(**{**inputs, name: wrong})


NAN = float("nan")
SETTINGS: dict[str, tuple[Any, ...]] = {
    "act": ("swish",),
    "alpha": (1.5,),
    "betas": ((0.9, 1.0),),
    "dropout_p": (-0.1, NAN),
    "eps": (-1.0,),
    "eta": (-1.0, NAN),
    "every": (0,),
    "focal_gamma": (-1.0,),
    "keep_level": ("pixel",),
    "keep_probability": (-1.0, 1.5, NAN),
    "label_smoothing": (1.5,),
    "layer": (-1, 2**24, 2.5, None),
    "level": ("row",),
    "max_norm": (0.0,),
    "momentum": (1.5,),
    "negative_slope": (-0.1,),
    "p": (1.5, NAN),
    "padding": (-1, "same"),
    "reduction": ("avg",),
    "rho": (-1.0,),
    "stride": (0, 3, (1, 2)),
    "true_channels": (0, 17),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_a_wrong_value(name: str) -> None:
    calls = [call for call in CALLS.values() if name in inspect.signature(call[0]).parameters]
    assert calls
    for function, inputs in calls:
        for wrong in SETTINGS[name]:
            with pytest.raises(ValueError, match=rf"^{name} must"):
                function(**{**inputs, name: wrong})


def _images(op: str, change: Callable[[Tensor], Tensor]) -> Inputs:
    inputs = CALLS[op][1]
    return {name: change(inputs[name]) for name in IMAGES if name in inputs}


NORMS = [op for op, (_, inputs) in CALLS.items() if "running_mean" in inputs]
STATISTICS = [op for op in NORMS if "statistics" in CALLS[op][1]]
BUFFERS = dict.fromkeys(("running_mean", "running_var"))
NONE = {**BUFFERS, "statistics": None}
LABELS = torch.zeros(4, dtype=torch.int64)
ADAM = CALLS["flat_adam_step"][1]
TOGETHER: list[tuple[str, Inputs, str]] = [
    *((op, {"bias": None}, "bias") for op in NORMS),
    *((op, {"running_var": None}, "running_var") for op in NORMS),
    *((op, {"training": False}, "statistics") for op in STATISTICS),
    *((op, {"momentum": None, "num_batches_tracked": None}, "num_batches_tracked") for op in NORMS),
    *((op, {**NONE, "training": False}, "running_mean") for op in STATISTICS if op != "shakedrop_bn_shortcut"),
    *((op, {**BUFFERS, "training": False}, "running_mean") for op in NORMS if op not in STATISTICS),
    *((op, _images(op, lambda t: t[:0]), "[xah]") for op in [*NORMS, "conv2d"]),
    *((op, _images(op, lambda t: t[:, :, :0]), "[xah]") for op in [*NORMS, "conv2d"]),
    *((op, _images(op, lambda t: t[:1, :, :1, :1]), "[xah]") for op in NORMS if op != "bn_act_conv2d"),
    *((op, _images(op, lambda t: torch.cat([t, t], dim=1)), r"(?!bias)\w+") for op in [*NORMS, "conv2d"]),
    *((op, {"weight": torch.ones(8).half(), "bias": torch.ones(8).half()}, "weight") for op in NORMS),
    *((op, {**_images(op, Tensor.half), "bias": torch.ones(8).half()}, r"bias|conv_weight") for op in NORMS),
    *((op, _images(op, Tensor.double), r"running_mean|conv_weight") for op in NORMS),
    ("cross_entropy", {"logits": torch.zeros(0, 10), "labels": LABELS[:0]}, "logits"),
    ("cross_entropy", {"logits": torch.zeros(4, 0)}, "logits"),
    ("cross_entropy", {"labels": torch.zeros(4)}, "labels"),
    ("cross_entropy", {"labels": torch.zeros(4, 10, requires_grad=True), "labels_b": None, "lam": None}, "labels"),
    ("cross_entropy", {"labels": torch.zeros(4, 10), "ignore_index": 2, "labels_b": None, "lam": None}, "ignore_index"),
    ("cross_entropy", {"labels": torch.zeros(4, 10), "labels_b": torch.zeros(4, 10)}, "labels_b"),
    ("cross_entropy", {"labels": torch.full((4,), 10)}, "labels"),
    ("cross_entropy", {"labels_b": torch.full((4,), -1)}, "labels_b"),
    ("cross_entropy", {"labels_b": None}, "lam"),
    ("cross_entropy", {"lam": None}, "labels_b"),
    ("conv2d", {"x": torch.zeros(2, 7, 5, 5), "weight": torch.zeros(16, 7, 3, 3)}, "x"),
    ("conv2d", {"x": torch.zeros(2, 8, 2, 5), "padding": 0}, "x"),
    *(("conv2d", {"weight": torch.zeros(*shape)}, "weight") for shape in ((16, 8, 5, 5), (16, 8, 1, 3), (16, 8))),
    *((op, {"conv_weight": torch.zeros(12, 8, 3, 3)}, "conv_weight") for op in ("bn_act_conv2d", "conv2d_bn_act")),
    ("bn_act_conv2d", {"x": torch.zeros(1, 8, 1, 1), **NONE}, "x"),
    *(("max_pool_bn_act", {"x": torch.zeros(2, 8, *side)}, "x") for side in ((1, 4), (4, 1))),
    *(("shakedrop_bn_shortcut", {"x": torch.zeros(3, *s)}, "x") for s in ((17, 4, 4), (8, 9, 8), (8, 4, 8))),
    ("shakedrop", {"shortcut": torch.zeros(0, 8, 4, 4), "branch": torch.zeros(0, 8, 4, 4)}, "branch"),
    ("dropout", {"x": torch.zeros(0, 3)}, "x"),
    ("flat_adam_step", {"master": torch.zeros(0)}, "master"),
    *(("flat_adam_step", {name: None}, name) for name in ("grad", "exp_avg_sq")),
    ("flat_adam_step", {"copy": torch.zeros(P - FLAT_BLOCK).half()}, "copy"),
    *(("flat_ema", {name: None}, name) for name in ("ema",)),
    *(("flat_lookahead", {name: None}, name) for name in ("slow",)),
    *(("flat_perturb", {name: None}, name) for name in ("copy", "grad")),
    *(
        (op, {"table": table}, "table")
        for op in ("flat_adam_step", "flat_grad_norm", "flat_asam_norm", "flat_clip", "flat_perturb")
        for table in (
            flat_table([1000] * 3),
            TABLE._replace(settings=TABLE.settings.double()),
            TABLE._replace(settings=TABLE.settings.t().contiguous().t()),
        )
    ),
]


@pytest.mark.parametrize(("op", "changes", "name"), TOGETHER)
def test_arguments_that_do_not_fit_together(op: str, changes: Inputs, name: str) -> None:
    function, inputs = CALLS[op]
    with pytest.raises(ValueError, match=rf"^({name}) (must|needs)"):
        function(**{**inputs, **changes})


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN")
@pytest.mark.parametrize("name", ["x", "residual"])
def test_layout_of_onednn(name: str) -> None:
    function, inputs = CALLS["batch_norm_act"]
    layout = r"must be a dense tensor \(layout torch.strided\), got torch._mkldnn"
    with pytest.raises(ValueError, match=rf"^{name} {layout}"):
        function(**{**inputs, name: torch.zeros(2, 8, 5, 5).to_mkldnn()})
