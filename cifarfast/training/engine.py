"""The training loop: the steps of an epoch, the evaluation after it, and the files written on the way."""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..data import Dataset, Splits
from ..errors import UserError
from ..inference.logits import predict_logits
from ..models import stored_in_channels
from ..optim import LearningRate
from ..random import step_seeds
from ..recipes.build import build_augment, build_model, normalization
from ..recipes.recipe import Recipe
from ..runs.checkpoint import checkpoint_folders
from ..runs.run_folder import Row, RunFolder
from ..runtime.cuda_graphs import CUDAGraphs
from ..runtime.distributed import World
from ..runtime.signals import Interrupted, StopRequest
from .checkpointer import Checkpointer
from .metrics import Scores, score
from .nonfinite import NonfiniteWatch, RolledBack
from .progress_bar import progress_bar
from .result import best_row, build_result, facts_before
from .step import TrainStep
from .tensorboard import TensorBoardLogger
from .train_state import TrainState, describe

AfterEpoch = Callable[[Row, Row], None]
"""What is called after an epoch with its row of ``metrics.csv`` and of ``timing.csv``."""

# processes that train together agree this often on whether to stop or to save
STEPS_BETWEEN_AGREEMENTS = 16
# on a GPU each check is a copy from the device between two steps
SECONDS_BETWEEN_CHECKS = 0.25


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn torch's errors about settings that cannot work into one line that says what to do."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError("the GPU's memory is full: lower --batch-size (and --eval-batch-size)") from None
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError("batch norm needs more than one value a channel: raise --batch-size to 2 or more") from None


class Trainer:
    """Trains one model by a resolved recipe on splits that lie on the device, and keeps its run folder up to date."""

    def __init__(
        self, recipe: Recipe, splits: Splits, run: RunFolder, *, world: World | None = None, show_progress: bool = True
    ) -> None:
        self.recipe, self.splits, self.run = recipe, splits, run
        self.world = world or World()
        self.device = splits.train.images.device
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._show_progress = show_progress and self.world.is_main
        count, batch = len(splits.train) * (2 if recipe.augmented_copy else 1), recipe.batch_size
        if recipe.early_stopping_patience and splits.val is None:
            raise UserError("early stopping needs a validation part: set --val-split (for example 0.1)")
        if batch > count:
            raise UserError(f"batch_size {batch} is above the {count} training images: lower --batch-size")
        # a last batch of one image is left out: batch norm cannot train on one value a channel
        self.steps_per_epoch = count // batch if count % batch == 1 and batch > 1 else math.ceil(count / batch)
        self.images_per_epoch = min(self.steps_per_epoch * batch, count)
        train = splits.train
        self.mean, self.std = normalization(recipe, train.images)
        self.model = build_model(recipe, train)
        stored_channels = stored_in_channels(self.model) if recipe.backend == "fused" else None
        augment, self.prepare = (
            build_augment(recipe, self.mean, self.std, training=training, channels=stored_channels)
            for training in (True, False)
        )
        # a first call now: settings that do not fit these images are an error before the run
        augment(train.images, train.labels, torch.zeros(1, dtype=torch.int64, device=self.device), 0)
        self.step = TrainStep(
            *(recipe, self.model, train, augment),
            samples=count,
            steps_per_epoch=self.steps_per_epoch,
            world=self.world,
        )
        self.step_sizes = self.step.sizes(self.steps_per_epoch)
        if min(self.step_sizes) < self.world.size:
            raise UserError(
                f"a batch of {min(self.step_sizes)} images cannot be split over {self.world.size} processes: "
                "choose another --batch-size"
            )
        self.graphs = CUDAGraphs(self.device, enabled=recipe.graph and not recipe.compile)
        self.schedule = LearningRate(
            recipe, total_steps=recipe.epochs * self.steps_per_epoch, steps_per_epoch=self.steps_per_epoch
        )
        self.state = TrainState()
        self.checkpointer = Checkpointer(
            *(recipe, splits, run, self.step, self.schedule),
            preprocessing={"mean": self.mean, "std": self.std},
            steps_per_epoch=self.steps_per_epoch,
        )
        self.watch = NonfiniteWatch(self.checkpointer)
        self._saved_at = self._checked_at = time.monotonic()
        self._epoch_began: float | None = None  # perf_counter() then, minus the epoch's seconds before a resume
        self._test_logits: Tensor | None = None

    @property
    def evaluated_model(self) -> nn.Module:
        """The model whose accuracy counts: the averaged weights when there is an EMA."""
        return self.step.ema.module if self.step.ema else self.model

    def save(self) -> None:
        """Write a checkpoint of this moment.

        Raises:
            UserError: the loss is no longer finite; the checkpoints before it are kept.
        """
        self.watch.check(self.state, wait=True)
        self._count_seconds()  # check() has waited for the steps that the host had launched ahead
        self.checkpointer.save(self.state)
        self._saved_at = time.monotonic()

    def resume(self) -> str:
        """Continue from the newest checkpoint that verifies; return a line about what was found.

        Raises:
            UserError: the checkpoint belongs to other settings, data or weights, or none verifies.
        """
        state, line = self.checkpointer.resume()
        self.state = state or self.state
        return line

    # training

    def fit(self, after_epoch: AfterEpoch | None = None) -> dict[str, Any]:
        """Train to the end and return the contents of ``result.json``.

        Args:
            after_epoch: called with each epoch's row of ``metrics.csv`` and of ``timing.csv``.

        Raises:
            Interrupted: SIGINT, SIGTERM or SIGHUP came; the state is saved.
            UserError: a checkpoint cannot be written, or the loss is not finite.
        """
        total = self.recipe.epochs * self.images_per_epoch
        bar = progress_bar(total=total, initial=self._images_done(), shown=self._show_progress)
        with bar, self._tensorboard() as events, explained(), StopRequest() as stop:
            facts = facts_before(self.recipe, self.splits)
            self._write_tables()
            if self.recipe.on_nonfinite == "rollback" and not checkpoint_folders(self.run.checkpoints):
                self.save()
            while not self.state.finished:
                bar.set_description(f"epoch {self.state.epoch + 1}/{self.recipe.epochs}", refresh=False)
                try:
                    self._train_epoch(bar, stop)
                except RolledBack as back:
                    self.state = back.state
                    bar.n = self._images_done()
                    continue
                self._finish_epoch(bar)
                for follower in (events, after_epoch):
                    if follower:
                        follower(self.state.rows[-1], self.state.timing[-1])
                if self.state.finished:
                    self.save()
                else:
                    self._pause(stop)
        return self._result(facts)

    def _images_done(self) -> int:
        state = self.state
        return state.epoch * self.images_per_epoch + sum(self.step_sizes[: state.step_in_epoch])

    @contextlib.contextmanager
    def _tensorboard(self) -> Iterator[AfterEpoch | None]:
        """The function that logs an epoch to TensorBoard, None where the recipe does not ask for it."""
        if not (self.recipe.tensorboard and self.world.is_main):
            yield None
            return
        with contextlib.closing(TensorBoardLogger(self.run.path / "tensorboard", self.state.epoch + 1)) as log:
            yield log.add

    def _train_epoch(self, bar: tqdm, stop: StopRequest) -> None:
        state = self.state
        first_step = state.epoch * self.steps_per_epoch
        seeds = step_seeds(self.recipe.seed, first_step, self.steps_per_epoch)
        rates = [self.schedule.at(first_step + step) for step in range(self.steps_per_epoch)]
        self.step.begin(state.epoch, state.step_in_epoch, rates, state.left_out(state.epoch))
        self.watch.reset()
        self.model.train()
        self._epoch_began, shown = time.perf_counter() - state.epoch_seconds, 0.0
        while state.step_in_epoch < self.steps_per_epoch:
            step = state.step_in_epoch
            self._generator.manual_seed(seeds[step] + self.world.rank)
            self.train_step(self.step_sizes[step], first_step + step)
            state.step_in_epoch += 1
            self._count_seconds()
            self._pause(stop)
            bar.update(self.step_sizes[step])
            if not bar.disable and state.epoch_seconds - shown > 0.5 and (means := self.step.epoch_metrics.peek()):
                bar.set_postfix_str(f"loss {means[0]:.3f}, accuracy {means[1]:.2f} %", refresh=False)
                shown = state.epoch_seconds
        self.watch.check(state, wait=True)
        self._count_seconds()
        self._epoch_began = None

    def _count_seconds(self) -> None:
        """Bring the present epoch's time up to date."""
        if self._epoch_began is not None:
            self.state.epoch_seconds = time.perf_counter() - self._epoch_began

    @property
    def _generator(self) -> torch.Generator:
        """The generator that models of other libraries draw their dropout from."""
        if self.device.type == "cuda":
            return torch.cuda.default_generators[torch.cuda.current_device()]
        return torch.default_generator

    def train_step(self, count: int, step: int) -> None:
        """Step number ``step`` of the run, on the next ``count`` images of the epoch."""
        perturbed = self.step.sharpness is not None and self.step.sharpness.due(step)
        self.graphs.run(("train", count, perturbed), lambda: self.step.run(count, perturbed))

    # between steps

    def _pause(self, stop: StopRequest) -> None:
        """Check for steps that were not finite, save when it is time, and stop when asked to.

        Several processes agree on all of this, every few steps.
        """
        world, recipe = self.world, self.recipe
        if world.size > 1 and self.state.step_in_epoch % STEPS_BETWEEN_AGREEMENTS and recipe.checkpoint_seconds:
            return
        now = time.monotonic()
        if world.size > 1 or self.device.type == "cpu" or now - self._checked_at > SECONDS_BETWEEN_CHECKS:
            self._checked_at = now
            self.watch.check(self.state, wait=world.size > 1)
        if world.any(stop.signum is not None, self.device):
            self.save()
            raise Interrupted(stop.signum or signal.SIGTERM, self.run.path)
        if world.any(now - self._saved_at >= recipe.checkpoint_seconds, self.device):
            self.save()

    # after an epoch

    def _finish_epoch(self, bar: tqdm) -> None:
        state, recipe = self.state, self.recipe
        loss, accuracy = self.step.epoch_metrics.means(self.world.all_reduce_sum)
        if not math.isfinite(loss):
            raise self.checkpointer.diverged(f"the loss became {loss}", state.epoch)
        self.step.broadcast_statistics()
        lr = self.schedule.at((state.epoch + 1) * self.steps_per_epoch - 1)
        row: Row = {"epoch": state.epoch + 1, "lr": lr, "train_loss": loss, "train_accuracy_percent": accuracy}
        last = state.epoch + 1 == recipe.epochs
        started = time.perf_counter()
        val = self._evaluate(self.splits.val) if self.splits.val else None
        if val:
            row |= {"val_loss": val.loss, "val_accuracy_percent": val.accuracy_percent}
        self.schedule.epoch_done(val.loss if val else loss)
        if val and val.loss < state.best_val_loss and recipe.restore_best_weights and state.best_val_epoch is not None:
            state.best_val_epoch = row["epoch"]
            self.checkpointer.keep_best()
        stopped = val is not None and self._stops_early(val.loss)
        if last or stopped or (state.epoch + 1) % recipe.eval_every == 0:
            test = self._evaluate(self.splits.test)
            row |= {"test_loss": test.loss, "test_accuracy_percent": test.accuracy_percent}
            best = best_row([*state.rows, row])
            state.best_accuracy_percent, state.best_epoch = best["test_accuracy_percent"], best["epoch"]
        images, seconds = self.images_per_epoch, state.epoch_seconds
        timing = {"epoch": row["epoch"], "images": images, "train_seconds": seconds}
        timing |= {"images_per_second": images / seconds, "evaluation_seconds": time.perf_counter() - started}
        state.timing.append(timing)
        state.rows.append(row)
        state.epoch, state.step_in_epoch, state.epoch_seconds = row["epoch"], 0, 0.0
        state.finished = last or stopped
        if state.finished and state.best_val_epoch not in (None, 0, state.epoch):
            self.checkpointer.restore_best()
            self._test_logits = None
        self.step.epoch_metrics.load([0.0, 0.0, 0.0])
        self._write_tables()
        if self.world.is_main:
            bar.write(describe(row, timing))

    def _stops_early(self, val_loss: float) -> bool:
        state = self.state
        if val_loss < state.best_val_loss:
            state.best_val_loss, state.epochs_without_gain = val_loss, 0
        else:
            state.epochs_without_gain += 1
        return 0 < self.recipe.early_stopping_patience <= state.epochs_without_gain

    def _write_tables(self) -> None:
        if not self.world.is_main:
            return
        self.run.write_metrics(self.state.rows)
        self.run.write_timing(self.state.timing)

    def _logits(self, data: Dataset) -> Tensor:
        recipe, model = self.recipe, self.evaluated_model.eval()
        return predict_logits(
            *(model, data, self.prepare),
            batch_size=recipe.eval_batch_size,
            precision=recipe.precision,
            graphs=self.graphs,
            world=self.world,
        )

    def _evaluate(self, data: Dataset) -> Scores:
        logits = self._logits(data)
        scores = score(logits, data.labels)
        if not math.isfinite(scores.loss):
            raise self.checkpointer.diverged(f"the loss of the evaluation became {scores.loss}", self.state.epoch)
        if data is self.splits.test:
            self._test_logits = logits
        return scores

    def _result(self, facts: dict[str, Any]) -> dict[str, Any]:
        test = self.splits.test
        if self._test_logits is None:  # of other weights, or resumed after the last evaluation
            self._test_logits = self._logits(test)
        result = build_result(self.recipe, self.splits, self.state, score(self._test_logits, test.labels), facts)
        if self.world.is_main:
            self.run.write_predictions(self._test_logits.cpu().numpy(), test.labels.cpu().numpy())
            self.run.write_result(result)
        return result
