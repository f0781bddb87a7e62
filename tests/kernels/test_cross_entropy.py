"""Properties, agreement with torch and errors of ``cross_entropy``, beyond what its OpSpec generates."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from cifarfast.kernels import CrossEntropyLoss, cross_entropy
from cifarfast.kernels.backend import DEBUG_VARIABLE
from cifarfast.kernels.cross_entropy import op
from cifarfast.kernels.cross_entropy.target import Target
from cifarfast.kernels.testing.spec import OpSpec, SampleMaker

SETTINGS = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SIZES = {"n": st.integers(1, 20), "c": st.integers(1, 40), "seed": st.integers(0, 100)}
EPSILON = st.sampled_from([0.0, 0.1, 1.0])
REDUCTION = st.sampled_from(["mean", "sum", "none"])


def _draw(n: int, c: int, seed: int, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    make = SampleMaker(torch.float32, device, seed)
    logits = make.randn(n, c, scale=2.0).requires_grad_()
    return logits, make.integers(c, n), make.integers(c, n), make.rand(n), make.rand(c) + 0.1


@SETTINGS
@given(**SIZES, epsilon=EPSILON, reduction=REDUCTION, weighted=st.booleans(), ignored=st.sampled_from([-100, 0, 7]))
def test_ignored_labels_equal_torchs(
    n: int, c: int, seed: int, epsilon: float, reduction: str, weighted: bool, ignored: int, implementation: str
) -> None:
    logits, labels, _, _, weight = _draw(n, c, seed, implementation)
    labels[::2] = ignored if ignored < c else -100
    ignored = int(labels[0])
    options = {"weight": weight if weighted else None, "label_smoothing": epsilon, "reduction": reduction}
    ours = cross_entropy(logits, labels, ignore_index=ignored, **options)
    torchs = F.cross_entropy(logits, labels, ignore_index=ignored, **options)
    torch.testing.assert_close(ours, torchs, rtol=2e-6, atol=2e-6, equal_nan=True)
    (gradient,) = torch.autograd.grad(ours.sum(), logits)
    assert (gradient[labels == ignored] == 0).all()
    (expected,) = torch.autograd.grad(torchs.sum(), logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=4e-6)


@SETTINGS
@given(**SIZES, epsilon=EPSILON, reduction=REDUCTION, weighted=st.booleans(), gamma=st.sampled_from([0.0, 2.0]))
def test_ignored_labels_of_two_count_by_themselves(
    n: int, c: int, seed: int, epsilon: float, reduction: str, weighted: bool, gamma: float, implementation: str
) -> None:
    logits, labels, labels_b, lam, weight = _draw(n, c, seed, implementation)
    labels[::2], labels_b[::3] = -100, -100
    options = {"weight": weight if weighted else None, "label_smoothing": epsilon, "focal_gamma": gamma}
    ours = cross_entropy(logits, labels, labels_b, lam, reduction=reduction, **options)
    parts, weights = [], []
    for label, share in ((labels, lam), (labels_b, 1 - lam)):
        kept = label != -100
        part = cross_entropy(logits, label.where(kept, 0), reduction="none", **options)
        parts.append(torch.where(kept, share * part, 0))
        weights.append(share * kept * (weight[label.where(kept, 0)] if weighted else 1))
    expected = sum(parts)
    if reduction != "none":
        expected = expected.sum() / (sum(weights).sum() if reduction == "mean" else 1)
    torch.testing.assert_close(ours, expected, rtol=4e-6, atol=4e-6, equal_nan=True)
    if sum(weights).sum() > 0:
        gradients = [torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (ours, expected)]
        torch.testing.assert_close(*gradients, rtol=2e-5, atol=8e-6)


def test_soft_labels_and_ignore_index(implementation: str) -> None:
    logits = torch.randn(4, 5, device=implementation)
    labels = torch.rand(4, 5, device=implementation)
    for ignored in (-100, -1):
        loss = cross_entropy(logits, labels, ignore_index=ignored)
        torch.testing.assert_close(loss, F.cross_entropy(logits, labels, ignore_index=ignored))


@SETTINGS
@given(**SIZES, gamma=st.sampled_from([0.0, 0.5, 2.0]))
def test_lam_of_one_is_the_first_label(n: int, c: int, seed: int, gamma: float, implementation: str) -> None:
    logits, labels, labels_b, lam, weight = _draw(n, c, seed, implementation)
    options = {"weight": weight, "focal_gamma": gamma}
    hard = cross_entropy(logits, labels, **options)
    one_hot = F.one_hot(labels, c).float()
    torch.testing.assert_close(cross_entropy(logits, labels, labels_b, torch.ones_like(lam), **options), hard)
    torch.testing.assert_close(cross_entropy(logits, labels_b, labels, torch.zeros_like(lam), **options), hard)
    soft = cross_entropy(logits, one_hot, reduction="sum", **options)
    torch.testing.assert_close(soft, cross_entropy(logits, labels, reduction="sum", **options))


def test_op_outputs_are_contiguous(spec: OpSpec, case: str, implementation: str) -> None:
    inputs = spec.cases[case](SampleMaker(torch.float32, implementation))
    loss, gradient, divisor = torch.ops.cifarfast.cross_entropy(*spec.op_arguments(inputs))
    backward = torch.ops.cifarfast.cross_entropy_backward
    arguments = (gradient, torch.ones_like(loss), divisor, inputs["logits"], inputs.get("reduction", "mean"))
    assert gradient.is_contiguous()
    assert backward(*arguments).is_contiguous()


def test_impossible_classes(implementation: str) -> None:
    logits = torch.tensor([[1.0, 2.0, -torch.inf, 0.5], [0.0, -torch.inf, 3.0, 1.0]], device=implementation)
    labels = torch.tensor([0, 2], device=implementation)
    for gamma in (0.0, 1.5):
        x = logits.clone().requires_grad_()
        loss = op.forward(x, Target(labels, focal_gamma=gamma))[0]
        (gradient,) = torch.autograd.grad(loss, x)
        assert loss.isfinite()
        assert gradient.isfinite().all()
        assert (gradient[logits.isinf()] == 0).all()


@pytest.mark.parametrize("label", [-1, -101, 10, 2**40])
def test_label_out_of_range_makes_its_sample_nan(
    label: int, implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Target, "check_labels", lambda *_: None)  # as on a GPU
    logits = torch.zeros(5, 10, device=implementation)
    labels = torch.tensor([0, 1, label, 3, 4], device=implementation)
    loss, gradient, _ = op.forward(logits, Target(labels, label_smoothing=0.1, reduction="none"))
    assert loss.isnan().tolist() == [False, False, True, False, False]
    assert gradient.isnan().any(dim=1).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("label", [-1, -101, 10])
def test_label_out_of_range_raises(label: int, implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    labels = torch.tensor([0, -100, label], device=implementation)
    with pytest.raises(ValueError, match=rf"labels must lie in \[0, 10\) or be ignore_index -100, got {label}$"):
        cross_entropy(torch.zeros(3, 10, device=implementation), labels)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 10\) or be ignore_index 3, got -100$"):
        cross_entropy(torch.zeros(3, 10, device=implementation), labels, ignore_index=3)


def test_module_mirrors_torch() -> None:
    options = {"weight": torch.rand(10), "label_smoothing": 0.1}
    logits, labels = torch.randn(6, 10), torch.tensor([0, -100, 3, 9, 3, 7])
    for more in ({}, {"ignore_index": 3}, {"reduction": "sum"}):
        ours, torchs = CrossEntropyLoss(**options, **more), torch.nn.CrossEntropyLoss(**options, **more)
        assert ours.state_dict().keys() == torchs.state_dict().keys()
        target = labels.abs() % 10 if more.get("ignore_index") else labels
        torch.testing.assert_close(ours(logits, target), torchs(logits, target))
    assert not CrossEntropyLoss().state_dict()
    assert "ignore_index=-100, reduction='sum', label_smoothing=0.1" in repr(ours)
    with pytest.raises(ValueError, match="reduction"):
        CrossEntropyLoss(reduction="average")


def test_module_compiles_fullgraph_with_two_labels() -> None:
    module = CrossEntropyLoss(torch.rand(10) + 0.1, label_smoothing=0.1, focal_gamma=1.0)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    logits = torch.randn(6, 10, requires_grad=True)
    labels = (torch.randint(10, (6,)), torch.randint(10, (6,)), torch.rand(6))
    ours, eager = compiled(logits, *labels), module(logits, *labels)
    torch.testing.assert_close(ours, eager)
    torch.testing.assert_close(torch.autograd.grad(ours, logits), torch.autograd.grad(eager, logits))


def test_half_precision_loss_is_fp32() -> None:
    logits = torch.randn(6, 10, dtype=torch.bfloat16, requires_grad=True)
    loss = cross_entropy(logits, torch.zeros(6, dtype=torch.int64))
    loss.backward()
    assert loss.dtype == torch.float32
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


def test_more_classes_than_a_program_holds(implementation: str) -> None:
    logits = torch.randn(2, 5000, device=implementation, requires_grad=True)
    labels = torch.tensor([4999, 17], device=implementation)
    loss = cross_entropy(logits, labels)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))
    loss.backward()
