"""Fitting the perceptron of a stacked ensemble."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..random import Purpose, permutation, step_seeds
from ..runs.run_folder import Row
from .combine import MetaLearner, side_by_side
from .settings import EnsembleSettings

_SMALLEST_STD = 1e-6


def fit_meta_learner(
    logits: Tensor,
    labels: Tensor,
    settings: EnsembleSettings,
    *,
    runs: Sequence[int],
    after_epoch: Callable[[MetaLearner, Row], None] | None = None,
) -> MetaLearner:
    """Train the perceptron on the CPU with Adam and cross-entropy; the same bits every time.

    The learning rate of step t of T is ``lr · (1 + cos(π t / T)) / 2``. Order, dropout and initialisation depend on
    the seed alone, and torch's own generator is left as it was.

    Args:
        logits: of the members for the fitting images, ``[M, N, C]``.
        labels: int64 ``[N]``.
        settings: of the ensemble.
        runs: number of runs behind each member.
        after_epoch: called with the learner in eval mode and a row of epoch, learning rate, training loss and accuracy.

    Returns:
        the perceptron in eval mode.
    """
    logits, labels = logits.detach().float().cpu(), labels.cpu()
    features = side_by_side(logits)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        learner = MetaLearner(runs, logits.shape[2], settings.hidden, settings.dropout)
        learner.mean.copy_(features.mean(dim=0))
        learner.std.copy_(features.std(dim=0, correction=0).clamp(min=_SMALLEST_STD))
        optimizer = torch.optim.Adam(learner.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        steps = math.ceil(len(labels) / settings.batch_size)
        seeds = step_seeds(settings.seed, 0, steps * settings.epochs)
        for epoch in range(settings.epochs):
            row = _fit_epoch(learner, optimizer, logits, labels, settings, epoch, seeds)
            if after_epoch:
                after_epoch(learner.eval(), row)
    return learner.eval().requires_grad_(False)


def _fit_epoch(
    learner: MetaLearner,
    optimizer: torch.optim.Optimizer,
    logits: Tensor,
    labels: Tensor,
    settings: EnsembleSettings,
    epoch: int,
    seeds: Sequence[int],
) -> Row:
    learner.train()
    batches = permutation(len(labels), settings.seed, Purpose.SHUFFLE, epoch).split(settings.batch_size)
    total_loss, right, lr = 0.0, 0, 0.0
    for number, batch in enumerate(batches, start=epoch * len(batches)):
        lr = settings.lr * (1 + math.cos(math.pi * number / len(seeds))) / 2
        for group in optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(seeds[number])  # of dropout
        out = learner.from_members(logits[:, batch])
        loss = F.cross_entropy(out, labels[batch])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total_loss += loss.item() * len(batch)
        right += int((out.argmax(dim=1) == labels[batch]).sum())
    count = len(labels)
    return {
        "epoch": epoch + 1,
        "lr": lr,
        "train_loss": total_loss / count,
        "train_accuracy_percent": 100 * right / count,
    }
