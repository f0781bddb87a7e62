"""Whether a contender computes the case's step: the judgement without which nothing is timed.

The truth is the loop in plain torch in fp64. A contender is compared twice, from the same weights, on the same images
without augmentation and dropout, ShakeDrop with the same coefficients. What counts are relative 2-norms: of the losses,
of what the steps did to the weights, and of what they did to batch norm's statistics. Errors may be at most twice those
of torch eager in the same precision, plus a little:

* in fp32 over three steps in a row, which have momentum and, captured, a step as it is, one recorded and one replayed.
  A step that is not the case's must be twice as far away as is allowed. A contender that takes minutes to get ready is
  left out here;
* in the precision that is timed over one step, three times from the start, for rounding grows from step to step.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cifarfast.data import Splits

from .cases import Case
from .contenders import EAGER, Contender, Kind, Torch, Weights, start_weights

STEPS = 3


class WrongStep(AssertionError):
    """A contender does not compute the step of its case."""


@dataclass(frozen=True)
class Outcome:
    """Losses of steps and the weights after them."""

    losses: list[float]
    weights: Weights


@dataclass(frozen=True)
class Errors:
    """Relative distances between two outcomes."""

    loss: float
    update: float
    statistics: float

    def doubled(self, little: "Errors") -> "Errors":
        """Twice these, plus a little."""
        pairs = zip(asdict(self).values(), asdict(little).values(), strict=True)
        return Errors(*(2 * error + more for error, more in pairs))

    def exceed(self, allowed: "Errors") -> list[str]:
        """A line for each that is above what is allowed; NaN is."""
        pairs = zip(asdict(self).items(), asdict(allowed).values(), strict=True)
        return [f"{name} {error:.2g}, allowed {most:.2g}" for (name, error), most in pairs if not error <= most]


# an activation whose sign rounding changes moves the gradient in a step: a lot, in a network with few of them
LITTLE_FP32 = Errors(loss=1e-3, update=3e-2, statistics=1e-2)
LITTLE_TIMED = Errors(loss=2e-3, update=2e-2, statistics=1e-2)


def distance(outcome: Outcome, truth: Outcome, start: Weights) -> Errors:
    """How far an outcome is from the truth, relative to how far the truth is from the start."""
    losses = [abs(a - b) / abs(b) for a, b in zip(outcome.losses, truth.losses, strict=True)]
    return Errors(
        loss=max(losses) if all(loss == loss for loss in losses) else float("nan"),
        update=_moved(outcome, truth, start, lambda name: "running_" not in name),
        statistics=_moved(outcome, truth, start, lambda name: "running_" in name),
    )


def _moved(outcome: Outcome, truth: Outcome, start: Weights, chosen: Callable[[str], bool]) -> float:
    def vector(weights: Weights) -> Tensor:
        parts = [
            (weights[name] - value.to(weights[name].device)).double().flatten()
            for name, value in start.items()
            if chosen(name) and not name.endswith("num_batches_tracked")
        ]
        return torch.cat(parts)

    true = vector(truth.weights)
    return ((vector(outcome.weights) - true).norm() / true.norm()).item()


def run(contender: Contender, start: Weights, steps: int) -> Outcome:
    """Begin and do steps in a row."""
    contender.begin(start)
    losses = [contender.step(number) for number in range(steps)]
    return Outcome(losses, contender.weights())


class Judge:
    """Verifies contenders of one case.

    Args:
        case: dropout is switched off for it.
        splits: the images.

    Attributes:
        allowed_fp32, allowed: what a contender's errors may be, in fp32 and in the precision that is timed.
        wrong_step: the distance of a step that is not the case's.

    Raises:
        WrongStep: that distance is not far enough outside of what is allowed to judge by it.
    """

    def __init__(self, case: Case, splits: Splits) -> None:
        self.case, self.splits = replace(case, dropout=False), splits
        self.start = start_weights(self.case)
        true = Torch(self.case, splits, torch.float64)
        self.truth, self.first = self._exact_run(true, STEPS), self._exact_run(true, 1)
        self.wrong_step = self._error(self._exact_run(self._wrong(), STEPS), self.truth)
        eager = self._exact_run(EAGER.build(self.case, splits, precision="fp32"), STEPS)
        self.allowed_fp32 = self._error(eager, self.truth).doubled(LITTLE_FP32)
        if not self.wrong_step.update > 2 * self.allowed_fp32.update:
            raise WrongStep(
                f"{case.name}: errors of {self.allowed_fp32.update:.2g} have to be allowed, and a wrong step is "
                f"{self.wrong_step.update:.2g} away: nothing to judge by"
            )
        timed = run(EAGER.build(self.case, splits), self.start, 1)
        self.allowed = self._error(timed, self.first).doubled(LITTLE_TIMED)

    def _error(self, outcome: Outcome, truth: Outcome) -> Errors:
        return distance(outcome, truth, self.start)

    def _exact_run(self, contender: Contender, steps: int) -> Outcome:
        with exact_arithmetic():
            return run(contender, self.start, steps)

    def _wrong(self) -> Torch:
        """A step that is not the case's: without the second pass, or with momentum that does not look ahead."""
        if self.case.optimizer == "asam":
            return Torch(replace(self.case, optimizer="sgd"), self.splits, torch.float32)
        return Torch(self.case, self.splits, torch.float32, nesterov=False)

    def verify(self, kind: Kind, contender: Contender | None = None) -> dict[str, Any]:
        """Errors and what was allowed, for the row.

        Args:
            kind: what to build.
            contender: a contender of this kind that is there; it is then judged in the timed precision alone.

        Raises:
            WrongStep: the contender does something else.
        """
        figures: dict[str, Any] = {"wrong_step": asdict(self.wrong_step)}
        if contender is None:
            fp32 = kind.build(self.case, self.splits, precision="fp32")
            errors = self._error(self._exact_run(fp32, STEPS), self.truth)
            self._demand(kind, "fp32", errors, self.allowed_fp32)
            figures |= {"fp32": asdict(errors), "fp32_allowed": asdict(self.allowed_fp32)}
            del fp32
            contender = kind.build(self.case, self.splits)
        for attempt in range(STEPS):
            errors = self._error(run(contender, self.start, 1), self.first)
            self._demand(kind, f"attempt {attempt + 1}", errors, self.allowed)
        return figures | {"timed": asdict(errors), "timed_allowed": asdict(self.allowed)}

    def _demand(self, kind: Kind, what: str, errors: Errors, allowed: Errors) -> None:
        if lines := errors.exceed(allowed):
            raise WrongStep(f"{self.case.name}, {kind.name}, {what}: {'; '.join(lines)}")


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """fp32 products of fp32 numbers, and no algorithm that is only nearly a convolution; put back afterwards."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    kept = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = kept
