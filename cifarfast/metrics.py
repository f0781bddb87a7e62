"""Running sums on the device that never make the host wait, and scores of a set of logits."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Scores(NamedTuple):
    """Mean loss (nats) and accuracies (percent)."""

    loss: float
    accuracy_percent: float
    top5_percent: float


def score(logits: Tensor, labels: Tensor) -> Scores:
    """Score logits [N, C] (any float dtype) against labels int64 [N]; the loss is plain cross-entropy in fp32."""
    logits = logits.float()
    loss = F.cross_entropy(logits, labels).item()
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = best == labels[:, None]
    first, any_of_five = hits[:, 0].sum().item(), hits.sum().item()
    return Scores(loss, 100 * first / len(labels), 100 * any_of_five / len(labels))


class RunningMean:
    """Sums of loss, right answers and images over an epoch, as three float64 numbers on the device."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        self._host = torch.zeros(3, dtype=torch.float64, pin_memory=device.type == "cuda")
        self._copied: torch.cuda.Event | None = None

    @torch.no_grad()
    def add(
        self, loss: Tensor, logits: Tensor, labels: Tensor, labels_b: Tensor | None = None, lam: Tensor | None = None
    ) -> None:
        """Add a batch: its mean loss (0-d), logits [B, C], labels int64 [B]. Does not synchronise.

        Of a mixed image ``lam`` counts as right when ``labels`` is predicted, 1 − lam when ``labels_b`` is.
        """
        count, predicted = len(labels), logits.argmax(1)
        if labels_b is None or lam is None:
            right = (predicted == labels).sum()
        else:
            right = (lam * (predicted == labels) + (1 - lam) * (predicted == labels_b)).sum()
        self.sums[:2] += torch.stack([loss.double() * count, right.double()])
        self.sums[2] += count

    def peek(self) -> tuple[float, float] | None:
        """Mean loss and accuracy in percent as of a recent batch, or None while no copy is ready. Never waits."""
        if self.sums.device.type == "cpu":
            return _means(self.sums)
        ready = self._copied is not None and self._copied.query()
        means = _means(self._host) if ready else None
        if self._copied is None or ready:
            self._host.copy_(self.sums, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        return means

    def means(self) -> tuple[float, float]:
        """Mean loss and accuracy in percent so far; waits for the device."""
        return _means(self.sums)

    def state(self) -> list[float]:
        """What a checkpoint keeps; waits for the device."""
        return self.sums.tolist()

    def load(self, state: list[float]) -> None:
        """Put back what ``state`` returned."""
        self.sums.copy_(torch.tensor(state, dtype=torch.float64))
        self._copied = None


def _means(sums: Tensor) -> tuple[float, float]:
    loss, right, count = sums.tolist()
    return (loss / count, 100 * right / count) if count else (0.0, 0.0)
