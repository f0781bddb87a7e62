"""Line 10: a class whose logit is −∞ counts for nothing, whatever the labels, γ and the backend."""

import pytest
import torch
from torch import Tensor

from cifarfast.kernels import cross_entropy
from cifarfast.kernels.backend import BACKEND_VARIABLE
from cifarfast.kernels.testing.spec import Inputs, OpSpec, SampleMaker

COLUMN, IGNORED = 2, -7


def _labels(kind: str, make: SampleMaker, n: int, c: int) -> tuple[Inputs, Inputs]:
    """Labels of which none is ``COLUMN``, and the same where that column is left out."""
    keep = [i for i in range(c) if i != COLUMN]
    left_out = make.integers(c - 1, n)
    labels = torch.tensor(keep, device=make.device)[left_out]
    if kind == "soft":
        probabilities = make.rand(n, c - 1)
        wide = torch.zeros(n, c, device=make.device)
        wide[:, keep] = probabilities
        return {"labels": wide}, {"labels": probabilities}
    if kind == "ignored":
        labels[::2], left_out[::2] = IGNORED, IGNORED
    if kind == "mixed":
        lam = make.rand(n)
        lam[:2] = torch.tensor([0.0, 1.0])
        others = make.integers(c - 1, n)
        # the label that has no share is the masked column
        labels_b = torch.tensor(keep, device=make.device)[others]
        labels[0], labels_b[1] = COLUMN, COLUMN
        return {"labels": labels, "labels_b": labels_b, "lam": lam}, {
            "labels": left_out,
            "labels_b": others,
            "lam": lam,
        }
    return {"labels": labels, "ignore_index": IGNORED}, {"labels": left_out, "ignore_index": IGNORED}


def _check(device: str, kind: str, gamma: float) -> None:
    make = SampleMaker(torch.float32, device)
    n, c = 9, 6
    logits = make.randn(n, c, scale=2.0)
    keep = [i for i in range(c) if i != COLUMN]
    fewer = logits[:, keep].clone().requires_grad_()
    logits[:, COLUMN] = -torch.inf
    logits.requires_grad_()
    masked, left_out = _labels(kind, make, n, c)
    for reduction in ("mean", "none"):
        options = {"focal_gamma": gamma, "reduction": reduction}
        ours, expected = cross_entropy(logits, **masked, **options), cross_entropy(fewer, **left_out, **options)
        torch.testing.assert_close(ours, expected, rtol=2e-6, atol=2e-6)
        (gradient,), (wanted,) = (torch.autograd.grad(y.sum(), x) for y, x in ((ours, logits), (expected, fewer)))
        torch.testing.assert_close(gradient[:, keep], wanted, rtol=1e-5, atol=1e-6)
        assert _is_zero(gradient[:, COLUMN])
        if kind == "ignored":
            assert _is_zero(gradient[::2])


def _is_zero(x: Tensor) -> bool:
    return bool((x == 0).all())


@pytest.mark.ops("cross_entropy")
@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2])
@pytest.mark.parametrize("kind", ["hard", "ignored", "mixed", "soft"])
def test_line_10_a_masked_class_is_as_one_left_out(
    kind: str, gamma: float, spec: OpSpec, backend_name: str, implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _check(implementation, kind, gamma)
    if implementation == "cpu" and backend_name == "torch":
        monkeypatch.delenv(BACKEND_VARIABLE)
        _check(implementation, kind, gamma)
