"""The contenders behind one interface: begin from given weights, do steps, show the weights; and be timed."""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cifarfast.data import Splits
from cifarfast.data.statistics import channel_statistics
from cifarfast.kernels.shakedrop.draws import Scaling, draw_coefficients
from cifarfast.random import Purpose, permutation
from cifarfast.recipes.recipe import Recipe
from cifarfast.runs.run_folder import RunFolder
from cifarfast.training.engine import Trainer
from cifarfast.training.train import ask_for_determinism

from .cases import Case
from .plain import PlainBatches, PlainStep
from .timing import Profile, StepTimes, Watch, profile_steps

Weights = dict[str, Tensor]
PROFILED_STEPS = 3


class Contender(ABC):
    """One way to do the steps of a case."""

    @abstractmethod
    def begin(self, start: Weights) -> None:
        """Be where a training begins: these weights, no momentum, the first batch next."""

    @abstractmethod
    def step(self, number: int) -> float:
        """Do step ``number`` of the first epoch on its images as they are; return the loss."""

    @abstractmethod
    def weights(self) -> Weights:
        """A copy of the model's ``state_dict``."""

    @abstractmethod
    def time(self, steps: int) -> StepTimes:
        """Time at least that many steps, warm-up, compilation and recording left out."""

    @abstractmethod
    def profile(self) -> Profile:
        """What the GPU does in a step; after ``time``."""


class Ours(Contender):
    """This package's ``Trainer``; the steps timed are those of a training by ``Trainer.fit``.

    Args:
        case: what to train.
        splits: the images, on the device.
        timed_steps: how many steps there will be to time; 0 for a contender that is to be verified, which sees the
            images without augmentation.
        settings: of the recipe, such as ``graph``.
    """

    def __init__(self, case: Case, splits: Splits, *, timed_steps: int = 0, **settings: Any) -> None:
        device = splits.train.images.device
        per_epoch = len(splits.train) // case.batch
        epochs = 1 + -(-timed_steps // per_epoch)  # the first is for warming up and recording
        plain: dict[str, Any] = {} if timed_steps else {"crop_padding": 0, "flip": "none"}
        recipe = case.recipe(
            dataset=splits.name, epochs=epochs, eval_every=epochs, checkpoint_seconds=1e9, **plain | settings
        ).resolved("cuda" if device.type == "cuda" else "cpu")
        ask_for_determinism(recipe)
        self._folder = tempfile.TemporaryDirectory()
        run = RunFolder(Path(self._folder.name) / "run")
        run.path.mkdir()
        self.case, self.recipe = case, recipe
        self.trainer = Trainer(recipe, splits, run, show_progress=False)

    def begin(self, start: Weights) -> None:
        trainer = self.trainer
        trainer.model.load_state_dict(start)
        for state in trainer.step.optimizer.states.values():
            state.zero_()
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        trainer, lr = self.trainer, self.recipe.lr
        assert lr is not None
        trainer.model.train()
        trainer.step.begin(0, 0, [lr] * trainer.steps_per_epoch, set())

    def step(self, number: int) -> float:
        running = self.trainer.step.epoch_metrics
        running.load([0.0, 0.0, 0.0])
        self.trainer.train_step(self.case.batch, number)
        return running.means()[0]

    def weights(self) -> Weights:
        return {name: value.detach().clone() for name, value in self.trainer.model.state_dict().items()}

    def time(self, steps: int) -> StepTimes:
        trainer, inner = self.trainer, self.trainer.train_step
        watch = Watch(trainer.device)
        trainer.train_step = lambda count, step: watch.step(lambda: inner(count, step))  # type: ignore[method-assign]
        trainer.fit()
        trainer.train_step = inner  # type: ignore[method-assign]
        self._require_graph()
        return watch.times(skip=trainer.steps_per_epoch, row=trainer.steps_per_epoch)

    def _require_graph(self) -> None:
        on_gpu = self.trainer.device.type == "cuda"
        if on_gpu and self.recipe.graph and not self.trainer.graphs.enabled:
            raise RuntimeError("the step could not be recorded as a CUDA graph (stderr says at which op)")

    def profile(self) -> Profile:
        self._begin_epoch()
        return profile_steps(lambda: self.trainer.train_step(self.case.batch, 0), PROFILED_STEPS)


class Torch(Contender):
    """A loop over ``PlainStep``.

    Args:
        case: what to train.
        splits: the images, on the device.
        dtype: of autocast.
        compiled: whether torch.compile makes the kernels.
        nesterov: see ``PlainStep``.
    """

    def __init__(
        self, case: Case, splits: Splits, dtype: torch.dtype, *, compiled: bool = False, nesterov: bool = True
    ) -> None:
        # a user who wants speed lets cuDNN choose by the clock
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = True
        train = splits.train
        self.case, self.device, self.compiled = case, train.images.device, compiled
        self.batches = PlainBatches(train, *channel_statistics(train.images))
        self.plain = PlainStep(case, self.device, dtype, compiled=compiled, nesterov=nesterov)
        self.order = permutation(len(train), Recipe().seed, Purpose.SHUFFLE, 0, self.device)
        self.augmented = False
        """Whether the timed steps make their batch; else it is there."""

    def begin(self, start: Weights) -> None:
        self.plain.model.load_state_dict(start)
        self.plain.optimizer.state.clear()

    def step(self, number: int) -> float:
        indices = self._indices(number)
        self._give(indices, 2 * number)
        self.plain.run(*self.batches.given(indices), between_passes=lambda: self._give(indices, 2 * number + 1))
        for module in self.plain.shakedrops:
            module.give(None)
        return self.plain.loss.item()

    def _indices(self, number: int) -> Tensor:
        return self.order[number * self.case.batch :][: self.case.batch]

    def _give(self, indices: Tensor, counter: int) -> None:
        """Make ShakeDrop use what the fused model draws in pass ``counter`` of a run."""
        seed, step = (torch.tensor(value, device=self.device) for value in (Recipe().seed, counter))
        for layer, module in enumerate(self.plain.shakedrops):
            scaling = Scaling(seed, step, indices, module.keep_probability, layer, "image", "image")
            module.give(torch.stack(draw_coefficients((len(indices), 1, 1, 1), self.device, scaling)))

    def weights(self) -> Weights:
        return {name: value.detach().clone() for name, value in self.plain.model.state_dict().items()}

    def time(self, steps: int) -> StepTimes:
        watch, warm_up = Watch(self.device), 8 if self.compiled else 5
        run = self._timed_step()
        for _ in range(warm_up + steps):
            watch.step(run)
        return watch.times(skip=warm_up)

    def _timed_step(self) -> Any:
        """A function that does the next step."""
        per_epoch, number = len(self.order) // self.case.batch, 0
        images, labels = self.batches.given(self._indices(0))

        def run() -> None:
            nonlocal number
            if self.augmented:
                self.plain.run(*self.batches.augmented(self._indices(number % per_epoch)))
                number += 1
            else:
                self.plain.run(images, labels)

        return run

    def profile(self) -> Profile:
        return profile_steps(self._timed_step(), PROFILED_STEPS)


@dataclass(frozen=True)
class Kind:
    """A contender by name.

    Args:
        name: in rows and tables.
        ours: whether it is this package's trainer.
        settings: of its recipe, or ``compiled``.
        slow_start: takes minutes to get ready.
        short: whether it runs with ``--short``.
    """

    name: str
    ours: bool
    settings: tuple[tuple[str, Any], ...] = ()
    slow_start: bool = False
    short: bool = True

    def build(self, case: Case, splits: Splits, *, precision: str = "auto", timed_steps: int = 0) -> Contender:
        """Make the contender.

        Args:
            case: what to train.
            splits: the images.
            precision: of the recipe; "auto" is bf16 on a GPU and fp32 on a CPU.
            timed_steps: see ``Ours``.
        """
        if self.ours:
            return Ours(case, splits, timed_steps=timed_steps, precision=precision, **dict(self.settings))
        half = precision == "auto" and splits.train.images.device.type == "cuda"
        return Torch(case, splits, torch.bfloat16 if half else torch.float32, **dict(self.settings))


OURS = Kind("cifarfast", True, (("backend", "fused"),))
EAGER = Kind("torch eager", False)
COMPILED = Kind("torch.compile max-autotune", False, (("compiled", True),), slow_start=True)
KINDS: tuple[Kind, ...] = (
    OURS,
    EAGER,
    Kind("cifarfast, no graph", True, (("backend", "fused"), ("graph", False))),
    Kind("cifarfast, torch's ops", True, (("backend", "torch"),)),
    Kind("cifarfast, not deterministic", True, (("backend", "fused"), ("deterministic", False)), short=False),
    COMPILED,
)
INCLUDES = {
    True: "indices, crop and flip, forward, loss, backward, update, metrics; the training loop's work between steps",
    False: "forward, loss, backward, update on a normalised fp32 batch that is there",
}
AUGMENTED = ", augmented"
INCLUDES_AUGMENTED = "crop and flip by torch's operations, forward, loss, backward, update"


def start_weights(case: Case) -> Weights:
    """The weights that every contender begins with when it is verified."""
    from .plain import plain_model

    torch.manual_seed(0)
    return {name: value.clone() for name, value in plain_model(replace(case, dropout=False)).state_dict().items()}


def names(kinds: Iterable[Kind]) -> list[str]:
    """Their names."""
    return [kind.name for kind in kinds]
