"""A training's state into checkpoints and back."""

import dataclasses
import math
from typing import Any

from torch import Tensor, nn

from ..data import Splits
from ..errors import UserError
from ..optim import LearningRate
from ..recipes.recipe import Recipe, differences, validate
from ..runs.checkpoint import (
    Checkpoint,
    check_tensors,
    checkpoint_folders,
    newest_checkpoint,
    save_checkpoint,
    set_aside_newer,
)
from ..runs.run_folder import RunFolder
from .step import TrainStep
from .train_state import TrainState

BEST = "best-"
"""What the files of the best epoch's weights begin with in a checkpoint of an unfinished run."""


class Checkpointer:
    """Saves and restores the whole state of a training.

    Args:
        recipe: resolved.
        splits: the data.
        run: the run folder, which has the checkpoints.
        step: the state on the device.
        schedule: the learning rate's state.
        preprocessing: mean and std of the channels.
        steps_per_epoch: of the training.
    """

    def __init__(
        self,
        recipe: Recipe,
        splits: Splits,
        run: RunFolder,
        step: TrainStep,
        schedule: LearningRate,
        *,
        preprocessing: dict[str, Any],
        steps_per_epoch: int,
    ) -> None:
        self.recipe, self.splits, self.run, self.step, self.schedule = recipe, splits, run, step, schedule
        self._preprocessing, self._steps_per_epoch = preprocessing, steps_per_epoch
        self._best: dict[str, dict[str, Tensor]] = {}  # weights of the best epoch, as in ``Checkpoint.tensors``

    def keep_best(self) -> None:
        """Keep a copy of the present weights as those of the best epoch."""
        for name, module in self._modules().items():
            self._best[name] = {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}

    def restore_best(self) -> None:
        """Put the weights of the best epoch back into the model and its average."""
        for name, module in self._modules().items():
            module.load_state_dict(self._best[name])

    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.step.model, **({"ema": self.step.ema.module} if self.step.ema else {})}

    def save(self, train_state: TrainState) -> None:
        """Write a checkpoint of this moment. Every process must call it; process 0 writes.

        Raises:
            UserError: the loss, a weight or an average is no longer finite; the checkpoints before it are kept.
        """
        step = self.step
        step.broadcast_statistics()
        sums = step.world.all_reduce_sum(step.epoch_metrics.sums).tolist()
        weights = [step.flat.master, *([step.ema.weights] if step.ema else [])]
        if not (math.isfinite(sums[0]) and all(buffer.isfinite().all().item() for buffer in weights)):
            raise self.diverged("the loss or a weight is not finite", train_state.epoch)
        if not step.world.is_main:
            return
        tensors = {name: module.state_dict() for name, module in self._modules().items()}
        tensors["optimizer"] = step.optimizer.tensors()
        if not train_state.finished:  # then they are the model's
            tensors |= {f"{BEST}{name}": kept for name, kept in self._best.items()}
        train = self.splits.train
        state = {
            "recipe": dataclasses.asdict(self.recipe),
            "progress": dataclasses.asdict(train_state),
            "running": sums,
            "schedule": self.schedule.state(),
            "scaler": step.loss_scale.state() if step.loss_scale else {},
            "preprocessing": self._preprocessing,
            "classes": train.classes,
            "image_size": train.image_size,
            "in_channels": train.in_channels,
            "fingerprint": self.splits.fingerprint,
        }
        done = train_state.epoch * self._steps_per_epoch + train_state.step_in_epoch
        evaluated = "-evaluated" if done and not train_state.step_in_epoch else ""
        save_checkpoint(self.run.checkpoints, f"{done:09d}{evaluated}", Checkpoint(tensors, state))

    def resume(self) -> tuple[TrainState | None, str]:
        """Continue from the newest checkpoint that verifies.

        Returns:
            the restored state, None where there is no checkpoint, and a line about the checkpoint that was found.

        Raises:
            UserError: the checkpoint belongs to other settings, data or weights, or none verifies.
        """
        found = newest_checkpoint(self.run.checkpoints)
        if found is None:
            return None, f"{self.run.path} has no checkpoint yet: starting from the beginning"
        path, checkpoint, problems = found
        state = checkpoint.state
        theirs = validate(state["recipe"], str(path))
        if lines := differences(self.recipe, theirs):
            raise UserError(f"{path} was made with other settings: {'; '.join(lines)}")
        if state["fingerprint"] != self.splits.fingerprint:
            raise UserError(f"{path} was trained on other data ({state['fingerprint']}, now {self.splits.fingerprint})")
        progress = state["progress"]
        if progress["epoch"] > self.recipe.epochs or progress["step_in_epoch"] > self._steps_per_epoch:
            raise UserError(f"{path} is at epoch {progress['epoch']}, step {progress['step_in_epoch']}: of another run")
        try:
            train_state = self.load(checkpoint)
        except (KeyError, TypeError, RuntimeError) as error:
            raise UserError(f"{path} does not fit this model: {str(error).splitlines()[0]}") from None
        if self.step.world.is_main:
            set_aside_newer(self.run.checkpoints, path)
        where = f"epoch {train_state.epoch + 1}, step {train_state.step_in_epoch}"
        return train_state, "; ".join([*problems, f"resuming from {path} ({where})"])

    def load(self, checkpoint: Checkpoint) -> TrainState:
        """Restore the model, optimizer, averages and schedule from a checkpoint, and return its training state."""
        state, tensors, step = checkpoint.state, checkpoint.tensors, self.step
        for name, module in self._modules().items():
            _load(module, tensors[name])
        step.optimizer.load_tensors(tensors["optimizer"])
        # a version that kept the last epoch's weights did not note the best one
        progress = TrainState(**{"best_val_epoch": None} | state["progress"])
        self._best = {}
        if progress.best_val_epoch and not progress.finished:
            for name, module in self._modules().items():
                kept = tensors[f"{BEST}{name}"]
                check_tensors(kept, module.state_dict())
                self._best[name] = {key: tensor.to(step.device) for key, tensor in kept.items()}
        # the sums are those of all processes
        step.epoch_metrics.load(state["running"] if step.world.is_main else [0.0, 0.0, 0.0])
        self.schedule.load(state["schedule"])
        if step.loss_scale:
            step.loss_scale.load(state["scaler"])
        return progress

    def diverged(self, what: str, epoch: int) -> UserError:
        """The error for ``what`` in an epoch (counted from 0); it names the newest checkpoint from before."""
        kept = next(iter(checkpoint_folders(self.run.checkpoints)), None)
        keeps = f"; {kept} is from before it" if kept else ""
        return UserError(f"{what} in epoch {epoch + 1}: lower --lr, or add --warmup-epochs 1{keeps}")


def _load(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    check_tensors(tensors, module.state_dict())
    module.load_state_dict(tensors)
