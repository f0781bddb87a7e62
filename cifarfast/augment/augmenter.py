"""``Augment``: the transforms of a recipe as one callable from a batch of indices to a batch of inputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cifarfast.errors import UserError

from . import checks, reference
from .program import Program, Size
from .transforms import Transform

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Batch:
    """What ``Augment`` returns.

    ``images``: [B, C, H, W], normalised. ``labels``: int64 [B]. With a mixing transform also ``labels_b``: int64 [B] and
    ``lam``: fp32 [B], the weight of ``labels``; ``labels_b`` has weight 1 − lam. Without one both are None.
    """

    images: Tensor
    labels: Tensor
    labels_b: Tensor | None = None
    lam: Tensor | None = None


class Augment:
    """Gather, augment and normalise a batch: ``(x / 255 − mean) / std`` per channel after the transforms.

    Args:
        transforms: applied in order; may be empty.
        mean, std: one number per channel, in units of pixels scaled to 0…1.
        seed: of the run; a sample's augmentation is a function of (seed, epoch, sample index) and the transforms.
        dtype: of ``batch.images``: float32, bfloat16 or float16.
        channels_last: memory format of ``batch.images``.
        backend: ``native`` (compiled), ``torch`` (plain), or ``auto``: native where it is there.

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
    ) -> None:
        for transform in transforms:
            if not isinstance(transform, Transform):
                raise UserError(f"Augment: transforms must be Transform objects, got {transform!r}")
        if dtype not in _DTYPES:
            raise UserError(f"Augment: dtype must be float32, bfloat16 or float16, got {dtype}")
        if len(mean) != len(std):
            raise UserError(f"Augment: mean and std must have one number per channel each, got {len(mean)} and {len(std)}")
        self.transforms = list(transforms)
        self.mean = [float(value) for value in mean]
        self.std = [checks.positive("Augment", "std", float(value)) for value in std]
        self.seed = checks.integer("Augment", "seed", seed, 0)
        self.dtype = dtype
        self.channels_last = channels_last
        self.backend = checks.choice("Augment", "backend", backend, ("auto", "native", "torch"))
        self._programs: dict[Size, Program] = {}
        self._affine: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, images: Tensor, labels: Tensor, indices: Tensor, epoch: int | Tensor) -> Batch:
        """Return the batch of the samples ``indices``.

        Args:
            images: uint8 [N, H, W, C], the whole data set, on the device that computes.
            labels: int64 [N].
            indices: int64 [B], values in [0, N).
            epoch: an int, or an int64 tensor with one element that is read on the device.
        """
        self._check(images, labels, indices)
        program = self._program(Size(*images.shape[1:]))
        picked = images.index_select(0, indices)
        draws = reference.Draws(self.seed, epoch, indices)
        scale, bias = self._scale_bias(images.device)
        out = reference.normalise(reference.augment_uint8(program, picked, draws), scale, bias).to(self.dtype)
        return Batch(out if self.channels_last else out.contiguous(), labels.index_select(0, indices))

    def _check(self, images: Tensor, labels: Tensor, indices: Tensor) -> None:
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise UserError(f"Augment: images must be uint8 [N, H, W, C], got {images.dtype} {list(images.shape)}")
        if images.shape[3] != len(self.mean):
            raise UserError(f"Augment: images have {images.shape[3]} channels, mean and std have {len(self.mean)}")
        for name, tensor in (("labels", labels), ("indices", indices)):
            if tensor.dtype != torch.int64 or tensor.dim() != 1:
                raise UserError(f"Augment: {name} must be int64 [n], got {tensor.dtype} {list(tensor.shape)}")

    def _program(self, size: Size) -> Program:
        program = self._programs.get(size)
        if program is None:
            program = Program(size)
            for transform in self.transforms:
                transform.compile(program)
            self._programs[size] = program
        return program

    def _scale_bias(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._affine:
            scale = torch.tensor([1 / (255 * s) for s in self.std], device=device)
            bias = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)], device=device)
            self._affine[device] = (scale, bias)
        return self._affine[device]
