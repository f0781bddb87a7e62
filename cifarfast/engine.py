"""The training loop: steps, epochs, evaluation, checkpoints."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .checkpoint import Checkpoint, checkpoint_folders, newest_checkpoint, save_checkpoint, set_aside_newer
from .data import Dataset, Splits
from .data.statistics import channel_statistics
from .errors import UserError
from .events import EventLog
from .inference import autocast, build_augment, build_model, predict_logits
from .losses import build_loss
from .metrics import RunningMean, Scores, score
from .optim import (
    ExponentialMovingAverage,
    LearningRate,
    add_l2_gradients,
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
    segment_table,
)
from .outcome import build_result
from .progress import Progress, describe
from .random import Purpose, permutation, step_seeds
from .recipe import Recipe, differences, validate
from .run import Row, RunFolder
from .signals import Interrupted, StopRequest


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn what torch says about settings that cannot work into a line that says what to do."""
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

    def __init__(self, recipe: Recipe, splits: Splits, run: RunFolder, *, show_progress: bool = True) -> None:
        self.recipe, self.splits, self.run = recipe, splits, run
        self.device = splits.train.images.device
        self._show_progress = show_progress
        count, batch = len(splits.train) * (2 if recipe.augmented_copy else 1), recipe.batch_size
        if recipe.early_stopping_patience and splits.val is None:
            raise UserError("early stopping needs a validation part: set --val-split (for example 0.1)")
        if batch > count:
            raise UserError(f"batch_size {batch} is above the {count} training images: lower --batch-size")
        self.samples = count  # with augmented_copy, sample N + i is the augmented copy of image i
        # a last batch of one image is left out: batch norm cannot train on one value a channel
        self.steps_per_epoch = count // batch if count % batch == 1 and batch > 1 else math.ceil(count / batch)
        self.images_per_epoch = min(self.steps_per_epoch * batch, count)
        self.model = build_model(recipe, splits.train)
        self.parameters = dict(self.model.named_parameters())
        self.segments = segment_table(
            self.model,
            weight_decay=recipe.weight_decay or 0.0,
            decay_norm_and_bias=recipe.decay_norm_and_bias,
            l2=recipe.l2,
        )
        self.optimizer = build_optimizer(self.model, self.segments, recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        self.ema = ExponentialMovingAverage(self.model, recipe.ema_decay) if recipe.ema_decay else None
        self.schedule = LearningRate(
            recipe, total_steps=recipe.epochs * self.steps_per_epoch, steps_per_epoch=self.steps_per_epoch
        )
        self.loss = build_loss(recipe)
        if recipe.normalize == "standard":
            self.mean, self.std = channel_statistics(splits.train.images)
        else:
            channels = splits.train.in_channels
            self.mean, self.std = (0.0,) * channels, (1.0,) * channels
        self.augment = build_augment(recipe, self.mean, self.std, training=True)
        self.prepare = build_augment(recipe, self.mean, self.std, training=False)
        train = splits.train  # a first call now: settings that do not fit these images are an error before the run
        self.augment(train.images, train.labels, torch.zeros(1, dtype=torch.int64, device=self.device), 0)
        self.running = RunningMean(self.device)
        self.progress = Progress()
        self._saved_at = time.monotonic()
        self._test_logits: Tensor | None = None

    @property
    def evaluated_model(self) -> nn.Module:
        """The model whose accuracy counts: the averaged weights when there is an EMA."""
        return self.ema.module if self.ema else self.model

    # ── checkpoint ──

    def save(self) -> None:
        """Write a checkpoint of this moment.

        Raises:
            UserError: the loss is no longer finite; the checkpoints before it are kept.
        """
        sums = self.running.state()
        finite = torch.stack([parameter.isfinite().all() for parameter in self.parameters.values()]).all().item()
        if not (finite and math.isfinite(sums[0])):
            raise self._diverged("the loss or a weight is not finite")
        tensors = {"model": self.model.state_dict(), "optimizer": optimizer_tensors(self.optimizer, self.model)}
        if self.ema:
            tensors["ema"] = self.ema.module.state_dict()
        train = self.splits.train
        state = {
            "recipe": dataclasses.asdict(self.recipe),
            "progress": dataclasses.asdict(self.progress),
            "running": sums,
            "schedule": self.schedule.state(),
            "scaler": self.scaler.state_dict(),
            "preprocessing": {"mean": self.mean, "std": self.std},
            "classes": train.classes,
            "image_size": train.image_size,
            "in_channels": train.in_channels,
            "fingerprint": self.splits.fingerprint,
        }
        step = self.progress.epoch * self.steps_per_epoch + self.progress.step_in_epoch
        evaluated = "-evaluated" if step and not self.progress.step_in_epoch else ""
        save_checkpoint(self.run.checkpoints, f"{step:09d}{evaluated}", Checkpoint(tensors, state))
        self._saved_at = time.monotonic()

    def resume(self) -> str:
        """Continue from the newest checkpoint that verifies; return a line about what was found.

        Raises:
            UserError: the checkpoint belongs to other settings, data or weights, or none verifies.
        """
        found = newest_checkpoint(self.run.checkpoints)
        if found is None:
            return f"{self.run.path} has no checkpoint yet: starting from the beginning"
        path, checkpoint, problems = found
        state, tensors = checkpoint.state, checkpoint.tensors
        theirs = validate(state["recipe"], str(path))
        if lines := differences(self.recipe, theirs):
            raise UserError(f"{path} was made with other settings: {'; '.join(lines)}")
        if state["fingerprint"] != self.splits.fingerprint:
            raise UserError(f"{path} was trained on other data ({state['fingerprint']}, now {self.splits.fingerprint})")
        try:
            self.model.load_state_dict(tensors["model"])
            load_optimizer_tensors(self.optimizer, self.model, tensors["optimizer"])
            if self.ema:
                self.ema.module.load_state_dict(tensors["ema"])
            self.progress = Progress(**state["progress"])
            self.running.load(state["running"])
            self.schedule.load(state["schedule"])
            self.scaler.load_state_dict(state["scaler"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise UserError(f"{path} does not fit this model: {str(error).splitlines()[0]}") from None
        set_aside_newer(self.run.checkpoints, path)
        where = f"epoch {self.progress.epoch + 1}, step {self.progress.step_in_epoch}"
        return "; ".join([*problems, f"resuming from {path} ({where})"])

    def _diverged(self, what: str) -> UserError:
        kept = next(iter(checkpoint_folders(self.run.checkpoints)), None)
        keeps = f"; {kept} is from before it" if kept else ""
        return UserError(f"{what} in epoch {self.progress.epoch + 1}: lower --lr, or add --warmup-epochs 1{keeps}")

    def _save_if_due(self) -> None:
        if time.monotonic() - self._saved_at >= self.recipe.checkpoint_seconds:
            self.save()

    def _stop_if_asked(self, stop: StopRequest) -> None:
        if stop.signum is not None:
            self.save()
            raise Interrupted(stop.signum, self.run.path)

    # ── training ──

    def fit(self, after_epoch: Callable[[Row, Row], None] | None = None) -> dict[str, Any]:
        """Train to the end and return what ``result.json`` gets.

        Args:
            after_epoch: called with each epoch's row of ``metrics.csv`` and of ``timing.csv``.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the state is saved.
            UserError: a checkpoint cannot be written, or the loss is not finite.
        """
        done = self.progress.epoch * self.images_per_epoch + self.progress.step_in_epoch * self.recipe.batch_size
        bar = tqdm(
            total=self.recipe.epochs * self.images_per_epoch,
            initial=done,
            unit=" images",
            disable=None if self._show_progress else True,  # None: shown on a terminal only
        )
        with bar, self._event_log() as events, explained(), StopRequest() as stop:
            self._write_tables()
            while not self.progress.finished:
                bar.set_description(f"epoch {self.progress.epoch + 1}/{self.recipe.epochs}", refresh=False)
                self._train_epoch(bar, stop)
                self._finish_epoch(bar)
                for follower in (events, after_epoch):
                    if follower:
                        follower(self.progress.rows[-1], self.progress.timing[-1])
                if self.progress.finished:
                    self.save()
                else:
                    self._save_if_due()
                    self._stop_if_asked(stop)
        return self._result()

    @contextlib.contextmanager
    def _event_log(self) -> Iterator[Callable[[Row, Row], None] | None]:
        """What to call after an epoch for TensorBoard, None when the recipe does not ask for it."""
        if not self.recipe.tensorboard:
            yield None
            return
        with contextlib.closing(EventLog(self.run.path / "tensorboard", self.progress.epoch + 1)) as log:
            yield log.add

    def _train_epoch(self, bar: tqdm, stop: StopRequest) -> None:
        progress, batch_size = self.progress, self.recipe.batch_size
        order = permutation(self.samples, self.recipe.seed, Purpose.SHUFFLE, progress.epoch, self.device)
        first_step = progress.epoch * self.steps_per_epoch
        seeds = step_seeds(self.recipe.seed, first_step, self.steps_per_epoch)
        self.model.train()
        started, before, shown = time.perf_counter(), progress.epoch_seconds, 0.0
        while progress.step_in_epoch < self.steps_per_epoch:
            step = progress.step_in_epoch
            indices = order[step * batch_size : (step + 1) * batch_size]
            self._generator.manual_seed(seeds[step])
            self.train_step(indices, progress.epoch, self.schedule.at(first_step + step))
            progress.step_in_epoch += 1
            progress.epoch_seconds = before + time.perf_counter() - started
            self._save_if_due()
            self._stop_if_asked(stop)
            bar.update(len(indices))
            if not bar.disable and progress.epoch_seconds - shown > 0.5 and (means := self.running.peek()):
                bar.set_postfix_str(f"loss {means[0]:.3f}, accuracy {means[1]:.2f} %", refresh=False)
                shown = progress.epoch_seconds
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            progress.epoch_seconds = before + time.perf_counter() - started

    @property
    def _generator(self) -> torch.Generator:
        """The generator that dropout draws from."""
        if self.device.type == "cuda":
            return torch.cuda.default_generators[torch.cuda.current_device()]
        return torch.default_generator

    def train_step(self, indices: Tensor, epoch: int, lr_per_step: float) -> None:
        """One update on the training images ``indices`` (int64 [B], on the device)."""
        train = self.splits.train
        for group in self.optimizer.param_groups:
            group["lr"] = lr_per_step
        batch = self.augment(train.images, train.labels, indices, epoch)
        with autocast(self.device, self.recipe.precision):
            logits = self.model(batch.images)
            loss = self.loss(logits, batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.recipe.l2:
            self.scaler.unscale_(self.optimizer)
            add_l2_gradients(self.parameters, self.segments)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema:
            self.ema.update()
        self.running.add(loss.detach(), logits.detach(), batch.labels, batch.labels_b, batch.lam)

    # ── after an epoch ──

    def _finish_epoch(self, bar: tqdm) -> None:
        progress, recipe = self.progress, self.recipe
        loss, accuracy = self.running.means()
        if not math.isfinite(loss):
            raise self._diverged(f"the loss became {loss}")
        lr = self.schedule.at((progress.epoch + 1) * self.steps_per_epoch - 1)
        row: Row = {"epoch": progress.epoch + 1, "lr": lr, "train_loss": loss, "train_accuracy_percent": accuracy}
        last = progress.epoch + 1 == recipe.epochs
        started = time.perf_counter()
        val = self._evaluate(self.splits.val) if self.splits.val else None
        if val:
            row |= {"val_loss": val.loss, "val_accuracy_percent": val.accuracy_percent}
        self.schedule.epoch_done(val.loss if val else loss)
        stopped = val is not None and self._stops_early(val.loss)
        if last or stopped or (progress.epoch + 1) % recipe.eval_every == 0:
            test = self._evaluate(self.splits.test)
            row |= {"test_loss": test.loss, "test_accuracy_percent": test.accuracy_percent}
            if test.accuracy_percent > progress.best_accuracy_percent:
                progress.best_accuracy_percent, progress.best_epoch = test.accuracy_percent, row["epoch"]
        images, seconds = self.images_per_epoch, progress.epoch_seconds
        timing = {"epoch": row["epoch"], "images": images, "train_seconds": seconds}
        timing |= {"images_per_second": images / seconds, "evaluation_seconds": time.perf_counter() - started}
        progress.timing.append(timing)
        progress.rows.append(row)
        progress.epoch, progress.step_in_epoch, progress.epoch_seconds = row["epoch"], 0, 0.0
        progress.finished = last or stopped
        self.running.load([0.0, 0.0, 0.0])
        self._write_tables()
        bar.write(describe(row, timing))

    def _stops_early(self, val_loss: float) -> bool:
        progress = self.progress
        if val_loss < progress.best_val_loss:
            progress.best_val_loss, progress.epochs_without_gain = val_loss, 0
        else:
            progress.epochs_without_gain += 1
        return 0 < self.recipe.early_stopping_patience <= progress.epochs_without_gain

    def _write_tables(self) -> None:
        self.run.write_metrics(self.progress.rows)
        self.run.write_timing(self.progress.timing)

    def _logits(self, data: Dataset) -> Tensor:
        model = self.evaluated_model.eval()
        size, precision = self.recipe.eval_batch_size, self.recipe.precision
        return predict_logits(model, data, self.prepare, batch_size=size, precision=precision)

    def _evaluate(self, data: Dataset) -> Scores:
        logits = self._logits(data)
        scores = score(logits, data.labels)
        if not math.isfinite(scores.loss):
            raise self._diverged(f"the loss of the evaluation became {scores.loss}")
        if data is self.splits.test:
            self._test_logits = logits
        return scores

    def _result(self) -> dict[str, Any]:
        test = self.splits.test
        if self._test_logits is None:  # resumed after the last evaluation
            self._test_logits = self._logits(test)
        self.run.write_predictions(self._test_logits.cpu().numpy(), test.labels.cpu().numpy())
        result = build_result(self.recipe, self.splits, self.progress, score(self._test_logits, test.labels))
        self.run.write_result(result)
        return result
