"""One training step: everything from the batch's indices to the new weights, on the device."""

import copy
import math

import torch
from torch import Tensor, nn

from cifarfast.kernels import FlatScalar, share_randomness

from ..augment import Augment, Batch
from ..data import Dataset
from ..models import true_shapes
from ..optim import (
    ExponentialMovingAverage,
    FlatOptimizer,
    FlatStatistics,
    Sharpness,
    ema_decay_at,
    flat_parameters,
    unmoved_statistics,
)
from ..random import Purpose, permutation
from ..recipes.recipe import Recipe
from ..runtime.distributed import World, synchronise_batch_norms
from ..runtime.precision import DTYPES, autocast
from .loss_scale import LossScale
from .losses import build_loss
from .metrics import RunningMean

# the scalars that the plan of an epoch gives for each step
PLANNED = (FlatScalar.LR, FlatScalar.EMA_DECAY, FlatScalar.GRAD_SCALE, FlatScalar.CLIP, FlatScalar.SKIP)


class TrainStep:
    """The state of a training on the device, and the step that moves it on.

    Position, order of the images, learning rates and the choice to leave a step out lie on the device, so that a step
    reads nothing from the host: on a GPU it is recorded once as a CUDA graph and replayed. On a CPU the same code runs
    as it is.

    Args:
        recipe: resolved.
        model: on the device; its parameters are made flat.
        data: the training images, on the device.
        augment: turns indices into a batch.
        samples: number of indices in an epoch (twice the images with ``augmented_copy``).
        steps_per_epoch: the last one may be smaller than ``recipe.batch_size``.
        world: the processes that share each batch.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        data: Dataset,
        augment: Augment,
        *,
        samples: int,
        steps_per_epoch: int,
        world: World,
    ) -> None:
        self.recipe, self.model, self.data, self.augment, self.world = recipe, model, data, augment, world
        device = self.device = data.images.device
        if recipe.sync_batch_norm and world.size > 1:
            synchronise_batch_norms(model)
        averaged = copy.deepcopy(model) if recipe.ema_decay else None
        self.flat = flat_parameters(
            model,
            recipe,
            compute_dtype=DTYPES[recipe.precision],
            true_shapes=true_shapes(model),
        )
        self.statistics = FlatStatistics(model)
        self.ema = ExponentialMovingAverage(averaged, self.flat, self.statistics) if averaged is not None else None
        self.optimizer = FlatOptimizer(self.flat, recipe, ema=self.ema.weights if self.ema else None)
        self.sharpness = Sharpness.of(recipe)
        self.loss_scale = LossScale(device) if recipe.precision == "fp16" else None
        self.loss = build_loss(recipe)
        self.forward = torch.compile(model) if recipe.compile else model
        self.epoch_metrics = RunningMean(device)
        rows = math.ceil(samples / recipe.batch_size)
        self._batches = torch.zeros(rows, recipe.batch_size, dtype=torch.int64, device=device)
        self.order = self._batches.view(-1)[:samples]
        """The epoch's indices: batch i is row i of a table, which one lookup reads."""
        self.plan = torch.zeros(steps_per_epoch, len(PLANNED), dtype=torch.float64, device=device)
        self.epoch = torch.zeros(1, dtype=torch.int64, device=device)
        self.step_in_epoch = torch.zeros(1, dtype=torch.int64, device=device)
        self.bad_steps = torch.zeros(steps_per_epoch, dtype=torch.bool, device=device)
        """Steps of this epoch with a loss or gradient that was not finite."""
        self.stopped = torch.zeros((), dtype=torch.float64, device=device)
        """1 after a bad step, unless the recipe skips those: later steps change nothing."""
        self._steps = torch.arange(steps_per_epoch, device=device)
        self._leaves = list(self.flat.leaves.values())
        self._one = torch.ones((), device=device)
        # the counter of ShakeDrop and dropout: a step has two passes with SAM, and each draws anew
        self._seed = torch.tensor(recipe.seed, dtype=torch.int64, device=device)
        self._pass = torch.zeros((), dtype=torch.int64, device=device)
        self._draws = share_randomness(model, self._seed, self._pass) > 0

    # before steps

    def begin(self, epoch: int, step_in_epoch: int, rates: list[float], left_out: set[int]) -> None:
        """Get ready for the steps of an epoch from ``step_in_epoch`` on.

        Args:
            epoch: 0 is the first.
            step_in_epoch: the next step.
            rates: learning rate of each step of the epoch.
            left_out: steps of the epoch that are to change nothing.
        """
        recipe = self.recipe
        first = epoch * len(rates)
        rows = [
            [rate, ema_decay_at(first + i, recipe.ema_decay, warmup=recipe.ema_warmup), 1.0, 1.0, float(i in left_out)]
            for i, rate in enumerate(rates)
        ]
        self.order.copy_(permutation(len(self.order), recipe.seed, Purpose.SHUFFLE, epoch, self.device))
        plan = torch.tensor(rows, dtype=torch.float64)
        self.plan.copy_(plan.pin_memory() if self.plan.is_cuda else plan, non_blocking=True)
        self.epoch.fill_(epoch)
        self.step_in_epoch.fill_(step_in_epoch)
        self._pass.fill_(2 * (first + step_in_epoch))
        self.bad_steps.zero_()
        self.stopped.zero_()

    def sizes(self, steps: int) -> list[int]:
        """Images of each step of an epoch over all processes."""
        size = self.recipe.batch_size
        return [min(size, len(self.order) - step * size) for step in range(steps)]

    def broadcast_statistics(self) -> None:
        """Give all processes process 0's running statistics, which are those that are saved and evaluated."""
        for tensor in (self.statistics.values, self.statistics.counts):
            self.world.broadcast(tensor)
        if self.ema:
            self.world.broadcast(self.ema.statistics.values)

    # the step

    def run(self, count: int, perturbed: bool) -> None:
        """One step on the next ``count`` images of the epoch's order, this process taking its part of them."""
        scalars = self.optimizer.scalars
        torch.index_select(self.plan, 0, self.step_in_epoch, out=scalars[None, : len(PLANNED)])
        whole = self._batches.index_select(0, self.step_in_epoch)[0]
        indices = whole[self.world.shard(count)]
        if self._draws:
            share_randomness(self.model, self._seed, self._pass, indices)
        batch = self.augment(self.data.images, self.data.labels, indices, self.epoch, batch_key=whole[:1])
        before = self._statistics_before()
        share = self.world.shard_weight(count)
        loss, logits = self._gradient(batch, share)
        judged = loss
        if perturbed:
            assert self.sharpness is not None
            norm = self.sharpness.perturb(self.flat)
            if self._draws:
                self._pass += 1
            with unmoved_statistics(self.model):
                second_loss, _ = self._gradient(batch, share)
            judged = loss + second_loss
            if self.loss_scale:  # where the first gradient overflows, the second loss says nothing
                judged = torch.where(norm * 0 == 0, judged, loss)
        if self._draws:
            self._pass += 1 if perturbed else 2
        left_out = self._judge(judged)
        self.optimizer.step()
        if before is not None:
            for kept, values in before:
                torch.where(left_out, kept, values, out=values)
        if self.ema:
            self.ema.update(scalars)
        self.epoch_metrics.add(loss, logits, batch.labels, batch.labels_b, batch.lam, left_out=left_out)
        self.step_in_epoch += 1

    def _gradient(self, batch: Batch, share: float) -> tuple[Tensor, Tensor]:
        """Gather the gradient of the batch's mean loss; return the loss and the logits."""
        # what a factor on the loss would give, without multiplying it and the backward of that
        factor = self.loss_scale.scale if self.loss_scale else self._one
        if share != 1:
            factor = factor * share
        with self.flat.computing(), autocast(self.device, self.recipe.precision):
            logits = self.forward(batch.images)
            loss = self.loss(logits, batch)
            gradients = torch.autograd.grad(loss, self._leaves, factor, allow_unused=True)
        self.flat.gather(gradients)
        self.world.average(self.flat.grad)
        return loss.detach(), logits.detach()

    def _statistics_before(self) -> list[tuple[Tensor, Tensor]] | None:
        """Copies of batch norm's statistics beside the statistics, where a step may have to be taken back."""
        if self.recipe.on_nonfinite == "stop":
            return None
        buffers = (self.statistics.values, self.statistics.counts)
        return [(values.clone(), values) for values in buffers if len(values)]

    def _judge(self, loss: Tensor) -> Tensor:
        """Find out whether the step is to be left out, note why, and tell the optimizer; 0-d bool on the device.

        A gradient that overflows under a loss scale is no such step: only the update is left out, as usual in fp16.
        """
        scalars, scale = self.optimizer.scalars, self.loss_scale
        if scale:
            scale.write_inverse(scalars[FlatScalar.GRAD_SCALE])
        norm = self.optimizer.clip()
        if self.world.size > 1:
            loss = loss.clone()
            self.world.average(loss)
        skip = scalars[FlatScalar.SKIP]
        torch.maximum(skip, self.stopped, out=skip)
        # 0·x is 0 where x is finite, else NaN, which is neither 0 nor 1: few operations, as each is a launch
        if scale:
            overflow = norm * 0 != 0
            left_out = (loss * 0 != skip) | (overflow & scale.at_its_end())
            scale.update(overflow, unless=left_out)
            unchanged = left_out | overflow
        else:
            unchanged = left_out = torch.add(loss, norm, alpha=0) * 0 != skip
        bad = left_out != skip
        torch.where(self._steps == self.step_in_epoch, bad, self.bad_steps, out=self.bad_steps)
        if self.recipe.on_nonfinite != "skip":
            torch.maximum(self.stopped, bad, out=self.stopped)
        self.optimizer.skip(unchanged)
        return left_out
