"""Data-parallel training over processes that torchrun started."""

import gc
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError


@dataclass(frozen=True)
class World:
    """The processes of a run. Each takes a part of every batch; process 0 writes."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def shard(self, count: int) -> slice:
        """This process's part of ``count`` consecutive items; the parts' sizes differ by one item at most."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def shard_weight(self, count: int) -> float:
        """size · len(shard) / count: with this factor on each process's mean, ``average`` gives the whole mean."""
        part = self.shard(count)
        return self.size * (part.stop - part.start) / count

    def average(self, tensor: Tensor) -> None:
        """Replace a tensor by its mean over the processes."""
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor /= self.size

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over the processes."""
        if self.size == 1:
            return tensor
        summed = tensor.clone()
        dist.all_reduce(summed)
        return summed

    def gather(self, rows: Tensor, count: int) -> Tensor:
        """Concatenate the rows of all processes, ``shard(count)`` of each, in order: [count, …] in every process."""
        if self.size == 1:
            return rows
        parts = [World(rank, self.size).shard(count) for rank in range(self.size)]
        longest = max(part.stop - part.start for part in parts)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        gathered = rows.new_empty(self.size * longest, *rows.shape[1:])
        dist.all_gather_into_tensor(gathered, padded)
        return torch.cat([gathered[i * longest :][: part.stop - part.start] for i, part in enumerate(parts)])

    def broadcast(self, tensor: Tensor) -> None:
        """Replace a tensor by process 0's."""
        if self.size > 1 and tensor.numel():
            dist.broadcast(tensor, 0)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process; waits for all processes."""
        if self.size == 1:
            return flag
        return bool(self.all_reduce_sum(torch.tensor(float(flag), device=device)).item())

    def broadcast_text(self, text: str) -> str:
        """Process 0's text, in every process."""
        if self.size == 1:
            return text
        box = [text]
        dist.broadcast_object_list(box)
        return box[0]


def join_world(device: str) -> World:
    """The world that torchrun's environment variables describe, joined; a world of one without them.

    Raises:
        UserError: a variable is missing, or there are more processes than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    try:
        rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    except (KeyError, ValueError) as error:
        raise UserError(f"WORLD_SIZE is set without {error}: start with torchrun --nproc-per-node=N") from None
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise UserError(f"process {local} of this machine has no GPU: there are {torch.cuda.device_count()}")
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    return World(rank, size, local)


def is_main_process() -> bool:
    """Whether this process writes files and prints, by torchrun's variables."""
    return os.environ.get("RANK", "0") == "0"


def leave_world() -> None:
    """Undo ``join_world``."""
    if dist.is_initialized():
        gc.collect()  # NCCL waits for the end of every CUDA graph that has recorded a call
        dist.destroy_process_group()


def synchronise_batch_norms(model: nn.Module) -> None:
    """Make every batch norm in training normalise by the batch of all processes, also on CPUs.

    Modules keep their parameters and buffers. A subclass still does what it does after normalising.

    Raises:
        UserError: a subclass normalises by itself, without torch's ``forward``.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, _Synchronised | nn.SyncBatchNorm):
            kind = type(module)
            # only a function that says super() has this cell
            if kind.forward is not _BatchNorm.forward and "__class__" not in kind.forward.__code__.co_freevars:
                raise UserError(
                    f"sync_batch_norm: layer {name} ({kind.__name__}) does not use torch's batch norm, so that it "
                    "cannot be synchronised: choose another --arch"
                )
            module.__class__ = type(f"Synchronised{kind.__name__}", (kind, _Synchronised), {})


class _Synchronised(_BatchNorm):
    """``nn.BatchNorm1d/2d/3d`` that normalises by the batch of all processes; statistics in fp32."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, …] to the same shape and dtype."""
        self._check_input_dim(input)
        if not self.training:
            result: Tensor = super().forward(input)
            return result
        dimensions = [d for d in range(input.ndim) if d != 1]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        x = input.float()
        count = _AllReduce.apply(x.new_full((), x.numel() / x.shape[1]))
        mean = _AllReduce.apply(x.sum(dimensions)) / count
        centred = x - mean.view(shape)
        variance = _AllReduce.apply(centred.square().sum(dimensions)) / count
        if self.training and self.track_running_stats:
            self._move_statistics(mean.detach(), (variance * count / (count - 1)).detach())
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    @torch.no_grad()
    def _move_statistics(self, mean: Tensor, variance: Tensor) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked += 1
        factor = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.float()
        self.running_mean.lerp_(mean, factor)
        self.running_var.lerp_(variance, factor)


class _AllReduce(torch.autograd.Function):
    """The sum over the processes; so is its gradient, as every process's loss depends on the sum."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        summed = tensor.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed)
        return summed
