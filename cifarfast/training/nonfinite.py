"""Steps whose loss or gradient was not finite: finds them, writes down their batches, rolls back."""

import json

from tqdm import tqdm

from ..random import Purpose, permutation
from ..runs.checkpoint import newest_checkpoint, set_aside_newer
from .checkpointer import Checkpointer
from .metrics import RecentValue
from .train_state import TrainState

MOST_ROLLBACKS = 20


class RolledBack(Exception):
    """The training was restored from its last checkpoint; ``state`` is that checkpoint's."""

    def __init__(self, state: TrainState) -> None:
        super().__init__()
        self.state = state


class NonfiniteWatch:
    """Acts on steps whose loss or gradient was not finite, as ``Recipe.on_nonfinite`` says.

    The device itself finds a step that was not finite and leaves weights, optimizer state and averages unchanged. With
    "skip" it does so for that step only; with "stop" and "rollback" for every later step too, until the host notices.
    """

    def __init__(self, checkpointer: Checkpointer) -> None:
        self.checkpointer, self.step, self.policy = checkpointer, checkpointer.step, checkpointer.recipe.on_nonfinite
        self._stopped = RecentValue(self.step.stopped)

    def reset(self) -> None:
        """Forget the copies of the device's flag: a new epoch begins."""
        self._stopped.forget()

    def check(self, state: TrainState, *, wait: bool) -> None:
        """Act on steps that were not finite.

        Args:
            state: of the training; steps that were not finite are added to its ``nonfinite``.
            wait: whether to wait for the device, and so to see every step until now.

        Raises:
            UserError: the policy is "stop", or too many steps were rolled back.
            RolledBack: the policy is "rollback".
        """
        if self.policy == "skip":
            if wait:
                self._note(state)
                self.step.bad_steps.zero_()
            return
        stopped = self.step.stopped if wait else self._stopped.peek()
        if stopped is None or not stopped.item():
            return
        self._note(state)
        if self.policy == "stop":
            path = self.checkpointer.run.path / "nonfinite.json"
            raise self.checkpointer.diverged(
                f"the loss or the gradient was not finite ({path} has the batch)", state.epoch
            )
        self._roll_back(state)

    def _note(self, state: TrainState) -> None:
        """Remember the bad steps of this epoch and write all batches until now into ``nonfinite.json``."""
        steps = self.step.bad_steps.nonzero()[:, 0].tolist()
        state.nonfinite += [{"epoch": state.epoch, "step": n, "action": self.policy} for n in steps]
        if not steps or not self.step.world.is_main:
            return
        recipe, samples, rows = self.checkpointer.recipe, len(self.step.order), []
        for bad in state.nonfinite:
            order = permutation(samples, recipe.seed, Purpose.SHUFFLE, bad["epoch"])
            indices = order[bad["step"] * recipe.batch_size :][: recipe.batch_size].tolist()
            rows.append({**bad, "epoch": bad["epoch"] + 1, "step": bad["step"] + 1, "indices": indices})
        path = self.checkpointer.run.path / "nonfinite.json"
        self.checkpointer.run.write(path.name, json.dumps(rows, indent=1))
        if self.policy == "skip":
            many = f"{len(steps)} step{'s' * (len(steps) > 1)}"
            tqdm.write(f"epoch {state.epoch + 1}: {many} left out, whose loss or gradient was not finite: see {path}")

    def _roll_back(self, state: TrainState) -> None:
        """Restore the newest checkpoint. The steps that were not finite are left out from now on."""
        bad = state.nonfinite
        if len(bad) > MOST_ROLLBACKS:
            what = f"the loss or the gradient was not finite in {len(bad)} steps"
            raise self.checkpointer.diverged(what, state.epoch)
        found = newest_checkpoint(self.checkpointer.run.checkpoints)
        assert found is not None, "there is one before the first step"
        restored = self.checkpointer.load(found[1])
        restored.nonfinite = bad
        if self.step.world.is_main:
            set_aside_newer(self.checkpointer.run.checkpoints, found[0])
            where = f"epoch {bad[-1]['epoch'] + 1}, step {bad[-1]['step'] + 1}"
            tqdm.write(f"{where}: not finite; going on from {found[0]} without that batch")
        raise RolledBack(restored)
