"""From the logits of several models to those of their ensemble: weighted soft voting, a stacked perceptron."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST_ITERATIONS = 20_000
GAP = 1e-9  # nats


class WeightedVote(nn.Module):
    """Soft voting: ``out = ln Σ_r w_r · softmax(logits_r)``, the logarithm of the weighted mean of probabilities.

    Args:
        weights: one a run, at least 0, not all 0; scaled to sum 1.
    """

    weights: Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        values = torch.tensor(weights, dtype=torch.float64)
        self.register_buffer("weights", values / values.sum())

    def forward(self, logits: Tensor) -> Tensor:
        """``[R, N, C]`` to ``[N, C]``, computed in float64 and rounded to float32."""
        log_p = logits.double().log_softmax(dim=2) + self.weights.log()[:, None, None]
        return log_p.logsumexp(dim=0).float()


class MetaLearner(nn.Module):
    """Stacking: a perceptron with two hidden layers on the members' logits, each standardised.

    ``out = W3 · d(relu(W2 · d(relu(W1 · (x − mean) / std + b1)) + b2)) + b3`` with dropout d; x are the logits of all
    members side by side, a member of several runs (folds) counting with the mean of theirs.

    Args:
        runs: number of runs behind each member.
        num_classes: C.
        hidden: units of the hidden layers.
        dropout: rate after each hidden layer.
    """

    mean: Tensor
    std: Tensor
    averaging: Tensor

    def __init__(self, runs: Sequence[int], num_classes: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        width = len(runs) * num_classes
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        rows = [torch.full((1, count), 1 / count) for count in runs]
        self.register_buffer("averaging", torch.block_diag(*rows), persistent=False)  # [members, R]
        self.layers = nn.Sequential(
            nn.Linear(width, hidden[0]),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden[0], hidden[1]),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden[1], num_classes),
        )

    def forward(self, logits: Tensor) -> Tensor:
        """Logits of all runs ``[R, N, C]`` to ``[N, C]``."""
        return self.from_members(torch.einsum("mr,rnc->mnc", self.averaging, logits))

    def from_members(self, logits: Tensor) -> Tensor:
        """Logits of the members ``[M, N, C]`` to ``[N, C]``."""
        return self.layers((side_by_side(logits) - self.mean) / self.std)


def side_by_side(logits: Tensor) -> Tensor:
    """``[M, N, C]`` to ``[N, M · C]``."""
    return logits.transpose(0, 1).flatten(1)


def search_weights(logits: Tensor, labels: Tensor) -> tuple[np.ndarray, float]:
    """The weights of soft voting with the lowest cross-entropy: ``min −mean_n ln Σ_m w_m p_mn``, w ≥ 0, Σ w = 1.

    p_mn is the probability that member m gives to the label of image n. The problem is convex, so the minimum is
    global. It is found by expectation-maximisation, ``w_m ← w_m · g_m`` with ``g_m = mean_n p_mn / Σ_k w_k p_kn``, from
    equal weights; ``ln max_m g_m`` bounds how far the loss is from the minimum and ends the search.

    Args:
        logits: ``[M, N, C]``.
        labels: int64 ``[N]``.

    Returns:
        weights float64 ``[M]`` and the mean loss they give, in nats.
    """
    count = len(labels)
    losses = [F.cross_entropy(member.double(), labels, reduction="none") for member in logits]
    p = np.exp(-torch.stack(losses).numpy()).clip(1e-300)
    weights = np.full(len(p), 1 / len(p))
    for _ in range(MOST_ITERATIONS):
        gain = (p / (weights @ p)).sum(axis=1) / count
        if np.log(gain.max()) < GAP:
            break
        weights = weights * gain
        weights /= weights.sum()
    weights[weights < 1e-9] = 0.0
    weights /= weights.sum()
    return weights, float(-np.log(weights @ p).mean())
