"""``Augment``: the transforms of a recipe as one callable from a batch of indices to a batch of inputs."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from cifarfast.errors import UserError

from . import checks, native, reference
from .compiled import Compiled, check_order, compile_program, to_device
from .program import Size
from .transform import Transform

# far from where fp32 overflows
_MAX_VALUE = 1e30
_EPOCHS = 2**32


@dataclass(frozen=True)
class Batch:
    """What ``Augment`` returns.

    ``images``: [B, C, H, W], normalised; C counts padding channels. ``labels``: int64 [B]. With a mixing transform also
    ``labels_b``: int64 [B] and ``lam``: fp32 [B], the weight of ``labels``; ``labels_b`` has weight 1 − lam. Without
    one both are None.
    """

    images: Tensor
    labels: Tensor
    labels_b: Tensor | None = None
    lam: Tensor | None = None


@dataclass(frozen=True)
class _Ready:
    """What one image size on one device needs: tables and, where compiled code runs, its module and job."""

    compiled: Compiled
    module: ModuleType | None
    job: Any


class Augment:
    """Gather, augment and normalise a batch: ``(x / 255 − mean) / std`` per channel after the transforms.

    A sample's result is a function of (seed, epoch, sample index), the transforms and the data set; not of the batch it
    is in, the device or the backend (``per="batch"`` mixing excepted). Normalisation is ``x · scale + bias`` in fp32,
    scale = 1 / (255 · std), bias = −mean / std.

    Args:
        transforms: applied in order; may be empty. Resize, Cutout and mixing come last, in this order.
        mean, std: one number per channel, in units of pixels scaled to 0…1.
        seed: of the run.
        dtype: of ``batch.images``: float32, bfloat16 or float16.
        channels_last: memory format of ``batch.images``.
        backend: ``native`` (compiled), ``torch`` (plain), or ``auto``: native where it is there.
        pad_channels: number of channels of ``batch.images``; those beyond the images' own are 0.
        augmented_copy: the data set counts twice: index i < N is image i, only normalised, and index N + i is its
            augmented copy.

    Raises:
        UserError: for settings that make no sense, when the object is built or first sees the images.
    """

    def __init__(
        self,
        transforms: Sequence[Transform],
        mean: Sequence[float],
        std: Sequence[float],
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
        backend: str = "auto",
        pad_channels: int | None = None,
        augmented_copy: bool = False,
    ) -> None:
        for transform in transforms:
            if not isinstance(transform, Transform):
                raise UserError(f"Augment: transforms must be Transform objects, got {transform!r}")
        check_order(transforms)
        if dtype not in native.DTYPES:
            raise UserError(f"Augment: dtype must be float32, bfloat16 or float16, got {dtype}")
        if len(mean) != len(std) or len(mean) not in (1, 3):
            raise UserError(f"Augment: mean and std must have 1 or 3 numbers each, got {len(mean)} and {len(std)}")
        self.transforms = list(transforms)
        self.mean = [checks.number("Augment", "mean", float(value), -1e6, 1e6) for value in mean]
        self.std = [checks.positive("Augment", "std", float(value)) for value in std]
        for m, s in zip(self.mean, self.std, strict=True):
            if max(abs(m), 1.0) / s > _MAX_VALUE:
                raise UserError(f"Augment: std must not make values larger than {_MAX_VALUE:g}, got mean {m}, std {s}")
        self.seed = checks.integer("Augment", "seed", seed, 0, 2**63 - 1)
        self.dtype = dtype
        self.channels_last = channels_last
        self.backend = checks.choice("Augment", "backend", backend, ("auto", "native", "torch"))
        low = len(self.mean)
        self.channels = (
            low if pad_channels is None else checks.integer("Augment", "pad_channels", pad_channels, low, 64)
        )
        self.augmented_copy = augmented_copy
        self._ready: dict[tuple[torch.device, Size], _Ready] = {}

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        epoch: int | Tensor,
        *,
        pool: Tensor | None = None,
        batch_key: Tensor | None = None,
    ) -> Batch:
        """Return the batch of the samples ``indices``.

        On a CUDA device nothing waits for the host, so the call can be captured in a CUDA graph if ``epoch`` is a
        tensor; an index out of range then counts as 0 and ``check()`` reports it.

        Args:
            images: uint8 [N, H, W, C], contiguous, the whole data set, on the device that computes.
            labels: int64 [N].
            indices: int64 [B], values in [0, N), or [0, 2N) with ``augmented_copy``.
            epoch: an int in [0, 2³²), or an int64 tensor with one element that is read on the device.
            pool: int64 [M], the images a partner for CutMix or Mixup is drawn from, M ≥ 2, each once; all N by default.
                Give the training part's indices when ``images`` also holds validation images.
            batch_key: int64 [1], the index whose draws decide for the batch where mixing is drawn per batch; its first
                by default. Give the first of the whole batch where ``indices`` are a process's part of it.

        Raises:
            UserError: for tensors of another dtype or shape, settings that the image size does not allow and, on a CPU,
                an epoch, indices, a batch_key or a pool out of range.
        """
        self._check(images, labels, indices, epoch, pool, batch_key)
        epoch = epoch.reshape(1) if isinstance(epoch, Tensor) else epoch
        batch_key = indices[:1] if batch_key is None else batch_key
        size = Size(*images.shape[1:])
        ready = self._ready.get((images.device, size)) or self._prepare(images.device, size)
        if ready.compiled.program.mixes and (len(images) if pool is None else len(pool)) < 2:
            raise UserError("Augment: mixing needs at least 2 images to choose a partner from")
        if ready.module is not None:
            result = self._run_native(ready, images, labels, indices, epoch, pool, batch_key)
        else:
            result = self._run_torch(ready, images, labels, indices, epoch, pool, batch_key)
        if images.device.type == "cpu":
            self.check()
        return Batch(*result)

    def check(self) -> None:
        """Raise a UserError if a launch since the last check saw an index out of range. Waits for the device."""
        for ready in self._ready.values():
            flag = ready.compiled.bad_index
            if flag.item():
                flag.zero_()
                limit = (
                    "2N (originals and their augmented copies)" if self.augmented_copy else "N, the number of images"
                )
                raise UserError(f"Augment: indices must lie in 0 … {limit} − 1 and so must those of pool")

    def _check(
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        epoch: int | Tensor,
        pool: Tensor | None,
        batch_key: Tensor | None,
    ) -> None:
        if images.dtype != torch.uint8 or images.dim() != 4 or not images.is_contiguous():
            raise UserError(
                f"Augment: images must be contiguous uint8 [N, H, W, C], got {images.dtype} {list(images.shape)}"
            )
        if images.shape[3] != len(self.mean):
            raise UserError(f"Augment: images have {images.shape[3]} channels, mean and std have {len(self.mean)}")
        for name, tensor in (("labels", labels), ("indices", indices), ("pool", pool), ("batch_key", batch_key)):
            if tensor is None:
                continue
            if tensor.dtype != torch.int64 or tensor.dim() != 1:
                raise UserError(f"Augment: {name} must be int64 [n], got {tensor.dtype} {list(tensor.shape)}")
            if tensor.device != images.device:
                raise UserError(f"Augment: {name} must be on the images' device {images.device}, got {tensor.device}")
        if len(labels) != len(images) or len(images) == 0:
            raise UserError(f"Augment: labels must be one per image, got {len(labels)} for {len(images)} images")
        if batch_key is not None and len(batch_key) != 1:
            raise UserError(f"Augment: batch_key must be int64 [1], got {list(batch_key.shape)}")
        self._check_epoch(epoch, images.device)
        if pool is not None and pool.is_cpu and len(pool) > 0 and not 0 <= pool.min() <= pool.max() < len(images):
            raise UserError(f"Augment: pool must lie in 0 … N − 1 = {len(images) - 1}")
        limit = len(images) * (2 if self.augmented_copy else 1)
        if batch_key is not None and batch_key.is_cpu and not 0 <= batch_key.item() < limit:
            raise UserError(f"Augment: batch_key must be an index, 0 … {limit - 1}, got {batch_key.item()}")

    @staticmethod
    def _check_epoch(epoch: int | Tensor, device: torch.device) -> None:
        if isinstance(epoch, Tensor):
            fits = (epoch.dtype, epoch.numel(), epoch.device) == (torch.int64, 1, device)
        else:
            fits = isinstance(epoch, int)
        # a value on a GPU is not waited for
        if fits and (isinstance(epoch, int) or epoch.is_cpu):
            fits = 0 <= int(epoch) < _EPOCHS
        if not fits:
            wanted = f"an int in [0, 2³²) or one int64 element of that range on {device}"
            raise UserError(f"Augment: epoch must be {wanted}, got {epoch!r}")

    def _prepare(self, device: torch.device, size: Size) -> _Ready:
        compiled = to_device(compile_program(self.transforms, size), self.mean, self.std, device)
        module = None if self.backend == "torch" else native.usable(device)
        if module is None and self.backend != "torch":
            reason = native.why_not(device)
            if self.backend == "native":
                raise UserError(f"Augment: backend='native', but {reason}")
            if device.type != "cpu":  # the CPU's line was printed when the extension was looked for
                print(f"cifarfast: plain torch augmentation, {reason}", file=sys.stderr)
        job = None
        if module is not None:
            job = native.make_job(
                module, compiled, seed=self.seed, out_channels=self.channels, channels_last=self.channels_last
            )
        ready = _Ready(compiled, module, job)
        self._ready[device, size] = ready
        return ready

    def _run_native(
        self,
        ready: _Ready,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        epoch: int | Tensor,
        pool: Tensor | None,
        batch_key: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        assert ready.module is not None
        if isinstance(epoch, int):
            epoch = torch.full((1,), epoch, dtype=torch.int64, device=images.device)
        if pool is not None:
            pool = pool.contiguous()
        return native.run(
            *(ready.module, ready.job, images, labels.contiguous(), indices.contiguous(), epoch),
            pool=pool,
            batch_key=batch_key.contiguous(),
            augmented_copy=self.augmented_copy,
            dtype=self.dtype,
        )

    def _run_torch(
        self,
        ready: _Ready,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        epoch: int | Tensor,
        pool: Tensor | None,
        batch_key: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        compiled = ready.compiled
        limit = len(images) * (2 if self.augmented_copy else 1)
        bad = (indices < 0) | (indices >= limit)
        compiled.bad_index.logical_or_(bad.any())
        if pool is not None:
            bad_pool = (pool < 0) | (pool >= len(images))
            compiled.bad_index.logical_or_(bad_pool.any())
            pool = torch.where(bad_pool, 0, pool)
        values, labels_a, labels_b, lam = reference.render(
            *(compiled, images, labels, torch.where(bad, 0, indices)),
            lambda index: reference.Draws(self.seed, epoch, index),
            pool=pool,
            batch_key=batch_key,
            augmented_copy=self.augmented_copy,
        )
        if self.channels > values.shape[3]:
            values = torch.nn.functional.pad(values, (0, self.channels - values.shape[3]))
        out = values.to(self.dtype).permute(0, 3, 1, 2)
        # not .contiguous(), which leaves the strides of one channel as they are
        return out if self.channels_last else out.new_empty(out.shape).copy_(out), labels_a, labels_b, lam
