"""Running sums on the device that never make the host wait, and scores of a set of logits."""

import math
from collections.abc import Callable
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


class RecentValue:
    """A recent value of a tensor on the device, read without waiting for the device."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._host = torch.zeros(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        self._copied: torch.cuda.Event | None = None

    def peek(self) -> Tensor | None:
        """The tensor's value at a recent call, None while no copy has arrived; on a CPU its present value."""
        if not self._tensor.is_cuda:
            return self._tensor
        ready = self._copied is not None and self._copied.query()
        value = self._host.clone() if ready else None
        if self._copied is None or ready:
            self._host.copy_(self._tensor, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        return value

    def forget(self) -> None:
        """Discard the copies made before now."""
        self._copied = None


class RunningMean:
    """Sums of loss, right answers and images over an epoch, as three float64 numbers on the device."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        self._batch = torch.ones(3, dtype=torch.float64, device=device)  # mean loss, right answers, 1
        self._loss, self._right = self._batch[0], self._batch[1]
        self._nothing = torch.zeros((), dtype=torch.float64, device=device)
        self._recent = RecentValue(self.sums)

    @torch.no_grad()
    def add(
        self,
        loss: Tensor,
        logits: Tensor,
        labels: Tensor,
        labels_b: Tensor | None = None,
        lam: Tensor | None = None,
        *,
        left_out: Tensor | None = None,
    ) -> None:
        """Add a batch: its mean loss (0-d), logits [B, C], labels int64 [B]. Does not synchronise.

        Of a mixed image ``lam`` counts as right when ``labels`` is predicted, 1 − lam when ``labels_b`` is. Where the
        0-d bool ``left_out`` is true the batch does not count.
        """
        predicted, batch = logits.argmax(1), self._batch
        self._loss.copy_(loss)
        if labels_b is None or lam is None:
            torch.sum(predicted == labels, 0, dtype=batch.dtype, out=self._right)
        else:
            self._right.copy_((lam * (predicted == labels) + (1 - lam) * (predicted == labels_b)).sum())
        if left_out is not None:
            batch = torch.where(left_out, self._nothing, batch)
        self.sums[::2].add_(batch[::2], alpha=len(labels))
        self.sums[1].add_(batch[1])

    def peek(self) -> tuple[float, float] | None:
        """Mean loss and accuracy in percent as of a recent batch, or None while no copy is ready. Never waits."""
        sums = self._recent.peek()
        return None if sums is None else _means(sums)

    def means(self, total: Callable[[Tensor], Tensor] = lambda sums: sums) -> tuple[float, float]:
        """Mean loss and accuracy in percent so far, NaN before the first batch that counts; waits for the device.

        ``total`` adds other processes' sums.
        """
        return _means(total(self.sums))

    def state(self) -> list[float]:
        """The sums, for a checkpoint; waits for the device."""
        return self.sums.tolist()

    def load(self, state: list[float]) -> None:
        """Put back what ``state`` returned."""
        self.sums.copy_(torch.tensor(state, dtype=torch.float64))
        self._recent.forget()


def _means(sums: Tensor) -> tuple[float, float]:
    loss, right, count = sums.tolist()
    return (loss / count, 100 * right / count) if count else (math.nan, math.nan)
