"""Learning curves made by models of training, with what somebody who knew the model would say about each.

A family draws its parameters from ranges that leave no doubt about the label; the epoch from which a run overfits is
that of the lowest held-out loss without its noise. The loss follows the learning rate (what is lost while steps are
large comes back when they are small), and so does its noise. The labels were given before the reader saw the curves.

Each family gives as many curves as wanted. The reader's rules may be chosen by draws 0 and 2 to 31, never by draw 1 and
those from 1000.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Rows = list[dict[str, float]]
Shape = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Labelled:
    """A curve and its label; ``epoch`` is None unless the label is overfitting."""

    name: str
    rows: Rows
    classes: int
    kind: str
    epoch: int | None


@dataclass
class Plan:
    """A training: losses and learning rate over the share x in (0, 1] that is done.

    Attributes:
        noise: standard deviation of the held-out loss, as a share of it; half of it follows the learning rate.
        memory: correlation of the noise from one epoch to the next.
        every: epochs between evaluations.
    """

    kind: str
    epochs: int
    train: Shape
    held_out: Shape
    lr: Shape
    noise: float = 0.01
    memory: float = 0.0
    every: int = 1
    classes: int = 10
    accuracy: Shape = field(default=lambda x: 90 - 40 * np.exp(-5 * x))
    part: str = "val"


def constant(x: np.ndarray) -> np.ndarray:
    return np.ones_like(x)


def cosine(x: np.ndarray) -> np.ndarray:
    return (1 + np.cos(np.pi * x)) / 2


def steps(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0.5, 1.0, np.where(x < 0.75, 0.1, 0.01))


def one_cycle(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0.3, 0.04 + 0.96 * x / 0.3, (1 + np.cos(np.pi * (x - 0.3) / 0.7)) / 2)


def decay(start: float, floor: float, tau: float) -> Shape:
    """An exponential with time constant ``tau``."""
    return lambda x: floor + (start - floor) * np.exp(-x / tau)


def power(start: float, floor: float, speed: float, exponent: float) -> Shape:
    """A power law."""
    return lambda x: floor + (start - floor) * (1 + speed * x) ** -exponent


def with_rate(base: Shape, lr: Shape, cost: float) -> Shape:
    """The loss ``base`` plus what large steps cost."""
    return lambda x: base(x) + cost * lr(x)


def valley(start: float, lowest: float, at: float, rise: float, bend: float = 1.0) -> Shape:
    """Down to ``lowest`` at x = ``at``, then up to ``lowest · (1 + rise)``."""

    def shape(x: np.ndarray) -> np.ndarray:
        down = lowest + (start - lowest) * np.clip(1 - x / at, 0, None) ** 2
        up = lowest * (1 + rise * (np.clip(x - at, 0, None) / (1 - at)) ** bend)
        return np.where(x < at, down, up)

    return shape


# families: from a generator of random numbers to a plan


def fine_cosine(r: np.random.Generator) -> Plan:
    base = power(2.4, r.uniform(0.2, 0.5), r.uniform(30, 80), r.uniform(1.3, 1.8))
    held_out = with_rate(base, cosine, r.uniform(0.1, 0.4))
    epochs = int(r.choice([60, 100, 200]))
    return Plan("fine", epochs, decay(2.4, 0.02, 0.2), held_out, cosine, noise=r.uniform(0.01, 0.04), memory=0.3)


def saturated(r: np.random.Generator) -> Plan:
    held_out = decay(2.3, r.uniform(0.25, 0.5), r.uniform(0.05, 0.12))
    train = decay(2.3, 0.002, 0.08)
    accuracy: Shape = lambda x: 94 - 50 * np.exp(-25 * x)  # noqa: E731
    return Plan("fine", int(r.integers(40, 120)), train, held_out, constant, noise=0.012, accuracy=accuracy)


def surer_of_mistakes(r: np.random.Generator) -> Plan:
    held_out = valley(2.2, r.uniform(0.5, 1.0), r.uniform(0.2, 0.5), r.uniform(0.15, 0.6))
    accuracy: Shape = lambda x: 70 + 15 * x  # noqa: E731
    train, epochs = decay(2.3, 0.01, 0.2), int(r.integers(30, 100))
    return Plan("overfitting", epochs, train, held_out, constant, 0.01, accuracy=accuracy)


def late(r: np.random.Generator) -> Plan:
    held_out = valley(2.2, r.uniform(0.6, 1.1), r.uniform(0.7, 0.85), r.uniform(0.08, 0.15))
    return Plan("overfitting", int(r.integers(40, 150)), decay(2.3, 0.05, 0.3), held_out, constant, 0.008)


def early_and_severe(r: np.random.Generator) -> Plan:
    held_out = valley(2.3, r.uniform(0.9, 1.5), r.uniform(0.05, 0.15), r.uniform(1.0, 3.0), bend=0.8)
    return Plan("overfitting", int(r.integers(60, 200)), decay(2.3, 0.001, 0.08), held_out, constant, 0.015, memory=0.5)


def mild(r: np.random.Generator) -> Plan:
    held_out = valley(2.2, r.uniform(0.5, 0.9), r.uniform(0.35, 0.6), r.uniform(0.07, 0.1))
    return Plan("overfitting", int(r.integers(80, 200)), decay(2.3, 0.1, 0.3), held_out, constant, 0.01)


def after_a_step(r: np.random.Generator) -> Plan:
    """The learning rate falls at half of the run, the loss with it, and from then on the network learns by heart."""
    high, low, rise = r.uniform(0.9, 1.2), r.uniform(0.45, 0.6), r.uniform(0.12, 0.25)

    def held_out(x: np.ndarray) -> np.ndarray:
        before = high + (2.3 - high) * np.exp(-x / 0.08)
        after = low * (1 + rise * np.clip(x - 0.52, 0, None) / 0.48)
        return np.where(x < 0.5, before, after + 0.1 * np.exp(-np.clip(x - 0.5, 0, None) / 0.005))

    train: Shape = lambda x: np.where(x < 0.5, 0.8 + 1.4 * np.exp(-x / 0.08), 0.25 * (1.2 - x))  # noqa: E731
    return Plan("overfitting", int(r.integers(60, 160)), train, held_out, steps, noise=0.015)


def fine_steps(r: np.random.Generator) -> Plan:
    base = decay(2.3, r.uniform(0.25, 0.5), 0.06)
    train = with_rate(decay(2.3, 0.02, 0.1), steps, 0.3)
    return Plan("fine", int(r.integers(60, 200)), train, with_rate(base, steps, r.uniform(0.2, 0.5)), steps, noise=0.02)


def one_cycle_bump(r: np.random.Generator) -> Plan:
    """The loss rises while the rate does, and falls with it."""
    held_out = with_rate(decay(2.3, r.uniform(0.3, 0.5), 0.08), one_cycle, r.uniform(0.4, 0.9))
    train = with_rate(decay(2.3, 0.1, 0.1), one_cycle, 0.4)
    return Plan("fine", int(r.integers(20, 60)), train, held_out, one_cycle, noise=0.02)


def hump(r: np.random.Generator) -> Plan:
    """Worse for a while, then better than ever before, and settled."""
    height, at = r.uniform(0.15, 0.35), r.uniform(0.25, 0.4)
    low = r.uniform(0.3, 0.5)

    def held_out(x: np.ndarray) -> np.ndarray:
        falling = low + 0.25 / (1 + np.exp((x - 0.55) * 25)) + (2.3 - low) * np.exp(-x / 0.04)
        return falling + height * np.exp(-(((x - at) / 0.07) ** 2))

    return Plan("fine", int(r.integers(60, 150)), decay(2.3, 0.01, 0.15), held_out, cosine, noise=0.01)


def slightly_up(r: np.random.Generator) -> Plan:
    held_out = valley(2.3, r.uniform(0.25, 0.45), 0.4, r.uniform(0.003, 0.012))
    return Plan("fine", int(r.integers(50, 150)), decay(2.3, 0.01, 0.2), held_out, cosine, noise=0.01)


def underfits(r: np.random.Generator) -> Plan:
    level, gap = r.uniform(0.55, 0.8) * math.log(10), r.uniform(0.01, 0.06)
    train, held_out = decay(2.3, level * (1 - gap), 0.06), decay(2.3, level, 0.06)
    return Plan("underfitting", int(r.integers(20, 80)), train, held_out, constant, 0.008)


def underfits_many_classes(r: np.random.Generator) -> Plan:
    level = r.uniform(0.5, 0.7) * math.log(100)
    train, held_out = decay(4.6, level * 0.96, 0.07), decay(4.6, level, 0.07)
    return Plan("underfitting", int(r.integers(30, 100)), train, held_out, cosine, 0.01, classes=100)


def underfits_with_dropout(r: np.random.Generator) -> Plan:
    level = r.uniform(0.5, 0.7) * math.log(10)
    train = decay(2.3, level * r.uniform(1.05, 1.2), 0.06)
    return Plan("underfitting", int(r.integers(20, 60)), train, decay(2.3, level, 0.06), constant, 0.01, part="test")


def short_and_improving(r: np.random.Generator) -> Plan:
    tau = r.uniform(0.5, 1.0)
    return Plan("still improving", int(r.integers(10, 20)), decay(2.3, 0.3, tau), decay(2.3, 0.5, tau), constant, 0.01)


def long_and_improving(r: np.random.Generator) -> Plan:
    """A power law, which has no end: 5 % and more from the last fifth but one to the last."""
    exponent = r.uniform(0.3, 0.45)
    held_out, train = power(2.3, 0.0, 60, exponent), power(2.3, 0.0, 80, exponent + 0.1)
    return Plan("still improving", int(r.integers(100, 200)), train, held_out, constant, noise=0.012)


def unstable(r: np.random.Generator) -> Plan:
    held_out = decay(2.3, r.uniform(0.7, 1.2), 0.1)
    return Plan("unstable", int(r.integers(20, 80)), decay(2.3, 0.6, 0.15), held_out, constant, r.uniform(0.12, 0.25))


def not_learning(r: np.random.Generator) -> Plan:
    level = math.log(10) * r.uniform(0.995, 1.02)
    train, held_out = decay(2.4, 2.302, 0.05), decay(2.4, level, 0.05)
    return Plan("not learning", int(r.integers(10, 60)), train, held_out, cosine, 0.002)


def evaluated_seldom(r: np.random.Generator) -> Plan:
    held_out = valley(2.2, r.uniform(0.5, 0.9), r.uniform(0.3, 0.5), r.uniform(0.3, 0.6))
    train = decay(2.3, 0.02, 0.2)
    return Plan("overfitting", int(r.integers(25, 40)) * 4, train, held_out, constant, 0.01, every=4, part="test")


def many_classes_settled(r: np.random.Generator) -> Plan:
    level = r.uniform(0.3, 0.4)
    train, held_out = decay(3.0, level * 0.7, 0.05), decay(3.0, level, 0.05)
    return Plan("fine", int(r.integers(10, 30)), train, held_out, cosine, 0.006, classes=47)


FAMILIES: tuple[Callable[[np.random.Generator], Plan], ...] = (
    *(fine_cosine, saturated, surer_of_mistakes, late, early_and_severe, mild, after_a_step, fine_steps),
    *(one_cycle_bump, hump, slightly_up, underfits, underfits_many_classes, underfits_with_dropout),
    *(short_and_improving, long_and_improving, unstable, not_learning, evaluated_seldom, many_classes_settled),
)


def make(number: int, draw: int) -> Labelled:
    """The curve of a family, by its number, and a draw of its parameters and noise."""
    family = FAMILIES[number]
    generator = np.random.default_rng([2024, number, draw])
    plan = family(generator)
    epochs = np.arange(1, plan.epochs + 1)
    x = epochs / plan.epochs
    clean, rates = plan.held_out(x), plan.lr(x)
    noise, last = np.zeros(plan.epochs), 0.0
    for i, fresh in enumerate(generator.normal(size=plan.epochs)):
        last = plan.memory * last + math.sqrt(1 - plan.memory**2) * fresh
        noise[i] = last
    held_out = clean * (1 + plan.noise * (0.5 + 0.5 * rates) * noise)
    train = plan.train(x) * (1 + 0.3 * plan.noise * generator.normal(size=plan.epochs))
    rows: Rows = []
    for i, epoch in enumerate(epochs):
        row = {"epoch": int(epoch), "lr": 0.1 * float(rates[i]), "train_loss": float(train[i])}
        if epoch % plan.every == 0:
            row |= {f"{plan.part}_loss": float(held_out[i])}
            row |= {f"{plan.part}_accuracy_percent": float(plan.accuracy(x[i : i + 1])[0])}
        rows.append(row)
    lowest = int(epochs[int(clean.argmin())])
    epoch_label = lowest if plan.kind == "overfitting" else None
    return Labelled(f"{family.__name__} {draw}", rows, plan.classes, plan.kind, epoch_label)


def halves() -> tuple[list[Labelled], list[Labelled]]:
    """The curves that thresholds may be chosen by, and those they may not."""
    first, second = ([make(number, half) for number in range(len(FAMILIES))] for half in (0, 1))
    return first, second
