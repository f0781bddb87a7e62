"""The training step as a user of torch writes it: autocast, channels_last, torch.optim, ASAM by hand."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from cifarfast.data import Dataset
from cifarfast.kernels import Dropout, ShakeDrop
from cifarfast.models import create_model

from .cases import RHO, Case

PADDING = 4


class PlainShakeDrop(nn.Module):
    """ShakeDrop in torch operations: ``shortcut + k·branch``, k drawn for each image.

    ``k = b + α − b·α`` forward and ``b + β − b·β`` backward; b ~ Bernoulli(p), α ~ U(−1, 1), β ~ U(0, 1).

    Args:
        keep_probability: p.
        choice_for: images a batch, where the choice between drawn and given coefficients is to be part of what is
            computed, so that a compiled model is the same for both; None leaves it to Python.
    """

    given: Tensor | None
    draws: Tensor

    def __init__(self, keep_probability: float, choice_for: int | None = None) -> None:
        super().__init__()
        self.keep_probability, self.chooses = keep_probability, choice_for is not None
        start = None if choice_for is None else torch.ones(2, choice_for, 1, 1, 1)
        self.register_buffer("given", start, persistent=False)
        self.register_buffer("draws", torch.ones((), dtype=torch.bool), persistent=False)

    def give(self, coefficients: Tensor | None) -> None:
        """Use these coefficients, [2, N, 1, 1, 1] for forward and backward, from now on; None: draw."""
        if not self.chooses:
            self.given = coefficients
            return
        self.draws.fill_(coefficients is None)
        if coefficients is not None:
            assert self.given is not None
            self.given.copy_(coefficients)

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        if not self.training:
            return shortcut + self.keep_probability * branch
        if self.given is not None and not self.chooses:
            forward, backward = self.given.to(branch.dtype)
        else:
            uniform = torch.rand(3, len(branch), 1, 1, 1, device=branch.device)
            keep = uniform[0] < self.keep_probability
            forward, backward = torch.where(keep, 1.0, 2 * uniform[1] - 1), torch.where(keep, 1.0, uniform[2])
            if self.given is not None:
                forward = torch.where(self.draws, forward, self.given[0])
                backward = torch.where(self.draws, backward, self.given[1])
            forward, backward = forward.to(branch.dtype), backward.to(branch.dtype)
        scaled: Tensor = _Scaled.apply(branch, forward, backward)
        return shortcut + scaled


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, branch: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
        ctx.save_for_backward(backward)
        return branch * forward

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient * ctx.saved_tensors[0], None, None


def plain_model(case: Case, *, choice_for: int | None = None) -> nn.Module:
    """The case's network in torch's own operations, on the CPU."""
    model = create_model(case.arch, dropout=case.dropout_rate)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, ShakeDrop):
                setattr(parent, name, PlainShakeDrop(child.keep_probability, choice_for))
            elif isinstance(child, Dropout):
                setattr(parent, name, nn.Dropout(child.p))
    return model


class PlainStep:
    """One step after the other: loss, backward, [ASAM: perturb, loss, backward, restore,] optimizer.

    Args:
        case: what to train.
        device: where.
        dtype: of autocast; float32 for none, float64 for a model in fp64.
        compiled: whether ``torch.compile(mode="max-autotune")`` makes the model's kernels.
        nesterov: False for another optimizer, which a check must be able to tell apart.
    """

    def __init__(
        self,
        case: Case,
        device: torch.device,
        dtype: torch.dtype,
        *,
        compiled: bool = False,
        nesterov: bool = True,
    ) -> None:
        self.case, self.device, self.dtype = case, device, dtype
        model = plain_model(case, choice_for=case.batch if compiled else None)
        if dtype == torch.float64:
            model.double()
        self.model = convert_conv2d_weight_memory_format(model.to(device), torch.channels_last).train()
        recipe = case.recipe()
        assert recipe.lr is not None
        assert recipe.weight_decay is not None
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=recipe.lr, momentum=0.9, nesterov=nesterov, weight_decay=recipe.weight_decay
        )
        self.forward = torch.compile(self.model, mode="max-autotune") if compiled else self.model
        self.parameters = list(self.model.parameters())
        self.statistics = [buffer for name, buffer in self.model.named_buffers() if "running_" in name]
        self.loss = torch.zeros((), device=device)

    @property
    def shakedrops(self) -> list[PlainShakeDrop]:
        """The ShakeDrop modules in order."""
        return [module for module in self.model.modules() if isinstance(module, PlainShakeDrop)]

    def run(self, images: Tensor, labels: Tensor, between_passes: Any = None) -> None:
        """One step; ``loss`` is that of the first pass. ``between_passes`` is called before ASAM's second one."""
        self.loss = self._gradient(images, labels)
        if self.case.optimizer == "asam":
            with self._perturbed():
                if between_passes:
                    between_passes()
                self._gradient(images, labels)
        self.optimizer.step()

    def _gradient(self, images: Tensor, labels: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        if self.dtype == torch.float64:
            images = images.double()
        half = self.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(self.device.type, self.dtype) if half else contextlib.nullcontext():
            loss = F.cross_entropy(self.forward(images), labels)
        loss.backward()
        return loss.detach()

    @contextlib.contextmanager
    def _perturbed(self) -> Iterator[None]:
        """ASAM without eta; batch norm's statistics are put back, for they move in the first pass only."""
        kept = [buffer.clone() for buffer in self.statistics]
        with torch.no_grad():
            pairs = [(p, p.grad) for p in self.parameters if p.grad is not None]
            norms = [torch.linalg.vector_norm(p * grad) for p, grad in pairs]
            scale = RHO / (torch.linalg.vector_norm(torch.stack(norms)) + 1e-12)
            weights, moves = [p.detach() for p, _ in pairs], [p * p * grad * scale for p, grad in pairs]
            torch._foreach_add_(weights, moves)
        yield
        with torch.no_grad():
            torch._foreach_sub_(weights, moves)
            torch._foreach_copy_(self.statistics, kept)


class PlainBatches:
    """Normalised batches on the device, made with torch's operations.

    Args:
        data: the images.
        mean, std: a number a channel, in units of pixels scaled to 0…1.
    """

    def __init__(self, data: Dataset, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.labels = data.labels
        device = data.images.device
        means, stds = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (mean, std))
        pixels = data.images.permute(0, 3, 1, 2).float() / 255
        self.images = ((pixels - means) / stds).contiguous(memory_format=torch.channels_last)
        self.padded = F.pad(self.images, (PADDING,) * 4)
        self._line = torch.arange(self.images.shape[-1], device=device)

    def given(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels of these samples as they are."""
        return self.images[indices].contiguous(memory_format=torch.channels_last), self.labels[indices]

    def augmented(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Randomly cropped and flipped: every pixel gathered from the padded image."""
        count, device = len(indices), indices.device
        shift = torch.randint(0, 2 * PADDING + 1, (2, count, 1), device=device)
        rows, columns = self._line + shift
        flipped = torch.rand(count, 1, device=device) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
        pixels = self.padded[indices[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return pixels.permute(0, 3, 1, 2), self.labels[indices]
