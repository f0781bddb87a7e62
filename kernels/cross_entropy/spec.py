"""The description of ``cross_entropy`` for tests, benchmarks, compile report and docs."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..testing.spec import Case, Inputs, OpSpec, SampleMaker, in_fp32
from ..tuning.tables import sizes
from .error_bounds import error_bounds, target_of
from .op import cross_entropy, forward
from .reference import cross_entropy_reference


def _hard(n: int, c: int, scale: float = 3.0, **settings: Any) -> Case:
    return lambda make: {"logits": make.randn(n, c, scale=scale), "labels": make.integers(c, n), **settings}


def _weighted(case: Case) -> Case:
    def with_weight(make: SampleMaker) -> Inputs:
        inputs = case(make)
        return {**inputs, "weight": make.rand(inputs["logits"].shape[1]) + 0.1}

    return with_weight


def _mixed(n: int, c: int, **settings: Any) -> Case:
    return lambda make: {**_hard(n, c)(make), "labels_b": make.integers(c, n), "lam": make.rand(n), **settings}


_MIXED_WEIGHTED = _weighted(_mixed(13, 7, label_smoothing=0.2))


def _ignored(case: Case, label: int) -> Case:
    """The same with every third sample's label ``label``, which is ignored."""

    def with_ignored(make: SampleMaker) -> Inputs:
        inputs = case(make)
        inputs["labels"][::3] = label
        return {**inputs, "ignore_index": label}

    return with_ignored


def _ignored_of_two(make: SampleMaker) -> Inputs:
    """Weighted samples with two labels, of which the first, the second, both or none are ignored."""
    inputs = _MIXED_WEIGHTED(make)
    inputs["labels"][::2], inputs["labels_b"][::3] = -100, -100
    return inputs


def _soft(n: int, c: int, **settings: Any) -> Case:
    return lambda make: {
        "logits": make.randn(n, c, scale=3.0),
        "labels": make.randn(n, c, dtype=torch.float32).softmax(dim=1),
        **settings,
    }


def _non_contiguous(make: SampleMaker) -> Inputs:
    """Transposed logits; labels, lam and weight with gaps."""
    return {
        "logits": make.randn(12, 18).t(),
        "labels": make.integers(12, 18, 2)[:, 1],
        "labels_b": make.integers(12, 36)[::2],
        "lam": make.rand(18, 3)[:, 0],
        "weight": (make.rand(24) + 0.1)[::2],
    }


def _sliced_soft(make: SampleMaker) -> Inputs:
    """Rows farther apart than their length, and transposed soft labels."""
    return {"logits": make.randn(11, 40)[:, 3:33], "labels": make.rand(30, 11).t(), "reduction": "none"}


def _random(make: SampleMaker, draw_int: Any) -> Inputs:
    n, c = draw_int(1, 40), draw_int(1, 70)
    kind = draw_int(0, 2)
    settings: Inputs = {
        "label_smoothing": draw_int(0, 10) / 10,
        "focal_gamma": draw_int(0, 8) / 2,
        "reduction": ("mean", "sum", "none")[draw_int(0, 2)],
    }
    inputs = (_hard, _mixed, _soft)[kind](n, c, **settings)(make)
    if draw_int(0, 1):
        inputs["weight"] = make.rand(c) + 0.1
    if kind < 2 and min(n, c) > 1 and draw_int(0, 1):
        inputs = _ignored(lambda _: inputs, (-100, 0)[draw_int(0, 1)])(make)
        inputs["labels"][1] = 1  # the mean over no sample is NaN
    return inputs


def _eager(
    logits: Tensor, labels: Tensor, labels_b: Tensor | None = None, lam: Tensor | None = None, **settings: Any
) -> Tensor:
    """Cross entropy as it is written with torch alone, in the logits' dtype."""
    if settings.get("focal_gamma"):
        return cross_entropy_reference(logits, labels, labels_b, lam, **settings)
    settings.pop("focal_gamma", None)
    if labels.is_floating_point():
        labels = labels.to(logits.dtype)
    if labels_b is None or lam is None:
        return F.cross_entropy(logits, labels, **settings)
    reduction = settings.pop("reduction", "mean")
    first = F.cross_entropy(logits, labels, reduction="none", **settings)
    loss = lam * first + (1 - lam) * F.cross_entropy(logits, labels_b, reduction="none", **settings)
    return loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.mean()


def _op_arguments(inputs: Inputs) -> tuple[Any, ...]:
    return forward.flatten(inputs["logits"], target_of(inputs))


def _flops(inputs: Inputs) -> int:
    """About 12 a logit: maximum, subtraction, exponential, sums, target, product; and one product in backward."""
    return 12 * inputs["logits"].numel()


def _bytes_moved(inputs: Inputs) -> int:
    """Forward reads the logits and writes their gradient; backward reads and writes the gradient."""
    extra = sum(inputs[name].nbytes for name in ("labels", "labels_b", "lam", "weight") if name in inputs)
    losses = 8 * inputs["logits"].shape[0]
    return 4 * inputs["logits"].nbytes + extra + losses


def _compile_cases() -> dict[str, Case]:
    """At every tile hard labels plain, and in fp32 mixed and soft labels with all extras; rows are not aligned, which
    takes the most registers.
    """
    cases: dict[str, Case] = {}
    for c in (size - 1 for size in (2, *sizes("cross_entropy", 4096))):
        cases[f"hard, C={c}"] = _hard(128, c)
        cases[f"fp32 mixed weighted focal, C={c}"] = in_fp32(_weighted(_mixed(128, c, focal_gamma=2.0)))
        cases[f"fp32 soft weighted focal, C={c}"] = in_fp32(_weighted(_soft(128, c, focal_gamma=2.0)))
    return cases


SPEC = OpSpec(
    name="cross_entropy",
    summary="softmax, loss and gradient in one pass; hard, mixed (CutMix, Mixup) or soft labels, smoothing, weights, γ",
    replaces="torch.nn.functional.cross_entropy",
    function=cross_entropy,
    reference=cross_entropy_reference,
    eager=_eager,
    compiled_ops=("cifarfast::cross_entropy", "cifarfast::cross_entropy_backward"),
    op_arguments=_op_arguments,
    differentiable=("logits",),
    cases={
        "hard": _hard(32, 10),
        "batch 1": _hard(1, 10),
        "one class": _hard(3, 1),
        "odd": _hard(63, 100, label_smoothing=0.1),
        "1000 classes": _hard(3, 1000),
        "sum": _hard(17, 10, reduction="sum"),
        "none": _hard(17, 33, reduction="none"),
        "confident": _hard(16, 10, scale=30.0),
        "weighted": _weighted(_hard(19, 10, label_smoothing=0.1)),
        "mixed": _mixed(21, 10),
        "mixed smoothed weighted": _MIXED_WEIGHTED,
        "soft": _soft(15, 10),
        "soft weighted focal": _weighted(_soft(9, 21, label_smoothing=0.1, focal_gamma=1.5)),
        "focal": _hard(16, 10, focal_gamma=2.0),
        "focal below 1": _mixed(16, 12, focal_gamma=0.5, reduction="none"),
        "ignored": _ignored(_hard(17, 10, label_smoothing=0.1), -100),
        "ignored class, weighted": _ignored(_weighted(_hard(14, 7)), 3),
        "ignored, none": _ignored(_hard(9, 12, focal_gamma=1.5, reduction="none"), -1),
        "ignored, sum": _ignored(_weighted(_hard(9, 12, reduction="sum")), -100),
        "ignored, focal": _ignored(_weighted(_hard(11, 5, focal_gamma=2.0)), 4),
        "ignored, mixed": _ignored_of_two,
        "non-contiguous": _non_contiguous,
        "sliced soft": _sliced_soft,
    },
    random_case=_random,
    benchmark_cases={
        "128x10": _hard(128, 10),
        "512x10": _hard(512, 10),
        "512x10 smoothed": _hard(512, 10, label_smoothing=0.1),
        "128x100": _hard(128, 100),
        "512x100 mixed": _mixed(512, 100),
        "512x200 soft": _soft(512, 200),
        "1024x1000": _hard(1024, 1000),
    },
    tuning_cases={"128x200": _hard(128, 200), "128x1000": _hard(128, 1000), "256x4096": _hard(256, 4096)},
    tile_size=lambda inputs: inputs["logits"].shape[1],
    flops=_flops,
    bytes_moved=_bytes_moved,
    compile_cases=_compile_cases,
    error_bounds=error_bounds,
)
