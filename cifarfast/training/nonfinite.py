"""Steps whose loss or gradient was not finite: finding them, writing their batches down, going back."""

import json

from tqdm import tqdm

from ..random import Purpose, permutation
from ..runs.checkpoint import newest_checkpoint, set_aside_newer
from ..runs.storage import write_durable
from .checkpointer import Checkpointer
from .metrics import RecentValue
from .train_state import TrainState

MOST_ROLLBACKS = 20


class RolledBack(Exception):
    """The state is that of the last checkpoint again, at ``state``."""

    def __init__(self, state: TrainState) -> None:
        super().__init__()
        self.state = state


class NonfiniteWatch:
    """Does what ``Recipe.on_nonfinite`` says.

    The device finds such a step by itself and keeps weights, state and averages as they were: at that step alone with
    "skip", at all later ones too with the other two, until the host has noticed.
    """

    def __init__(self, checkpointer: Checkpointer) -> None:
        self.checkpointer, self.step, self.policy = checkpointer, checkpointer.step, checkpointer.recipe.on_nonfinite
        self._stopped = RecentValue(self.step.stopped)

    def reset(self) -> None:
        """A new epoch begins."""
        self._stopped.forget()

    def check(self, state: TrainState, *, wait: bool) -> None:
        """Act on steps that were not finite.

        Args:
            state: where the run stands; such steps are added to its ``nonfinite``.
            wait: for the device, to know of every step until now.

        Raises:
            UserError: the policy is "stop", or going back did not help.
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
        self._go_back(state)

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
        write_durable(path, json.dumps(rows, indent=1).encode())
        if self.policy == "skip":
            many = f"{len(steps)} step{'s' * (len(steps) > 1)}"
            tqdm.write(f"epoch {state.epoch + 1}: {many} left out, whose loss or gradient was not finite: see {path}")

    def _go_back(self, state: TrainState) -> None:
        """Return to the newest checkpoint, with the steps that were not finite left out from now on."""
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
