"""Muon: momentum whose direction is made orthogonal, for the weights of inner layers, and SGD for the rest."""

import math

import torch
from torch import Tensor

from cifarfast.kernels import FlatScalar, flat_sgd_step

from .flat import FlatParameters, part_of
from .segments import Region

# the quintic whose iteration pushes singular values from (0, 1] to about 1, fast rather than exactly
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int) -> Tensor:
    """About U·Vᵀ of the singular value decomposition U·S·Vᵀ of each matrix, [N, rows, columns] to the same shape.

    X ← a·X + (b·XXᵀ + c·(XXᵀ)²)·X from X = G / ‖G‖, ``steps`` times; singular values end between about 0.7 and 1.2.
    A matrix of zeros stays one. In bf16 on a GPU, fp32 elsewhere.

    Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """
    a, b, c = COEFFICIENTS
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.square().sum(dim=(1, 2), keepdim=True).sqrt() + 1e-7)
    if x.is_cuda:
        x = x.bfloat16()
    for _ in range(steps):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return (x if wide else x.mT).to(matrices.dtype)


class Muon:
    """One update of all parameters.

    Region.ORTHOGONAL, with a weight of more than two dimensions taken as [outputs, all others]::

        m ← momentum·m + (1 − momentum)·g,   u = (1 − momentum)·g + momentum·m
        w ← w − lr·(√max(1, rows/columns) · orthogonalise(u) + weight_decay·w)

    The rest: SGD with Nesterov's momentum and decoupled weight decay, at the segments' lr_scale.

    Args:
        flat: parameters and gradients; the gradients of the first region are overwritten.
        scalars: as ``FlatOptimizer`` has them.
        buffer: [P] momentum, None for a momentum of 0.
        ema: [P] or None.
        momentum: in [0, 1).
        steps: iterations of ``orthogonalise``.
    """

    def __init__(
        self,
        flat: FlatParameters,
        scalars: Tensor,
        buffer: Tensor | None,
        ema: Tensor | None,
        *,
        momentum: float,
        steps: int,
    ) -> None:
        self.flat, self.scalars, self.buffer, self.ema = flat, scalars, buffer, ema
        self.momentum, self.steps = momentum, steps
        self.inner = flat.region(Region.ORTHOGONAL)
        self.rest = slice(self.inner.stop, flat.table.length)
        self._inner_scalars = scalars.clone()
        views = flat.views(flat.grad)
        self._by_shape: dict[tuple[tuple[int, ...], float], list[Tensor]] = {}
        for segment in flat.segments:
            if segment.region == Region.ORTHOGONAL:
                view = views[segment.name]
                matrix, columns = view, view[0].numel()
                if view.ndim > 2:
                    # the columns' order does not matter, so that of the memory: a view of channels_last weights too
                    matrix = flat.grad.as_strided((len(view), columns), (columns, 1), int(view.storage_offset()))
                rows, *others = flat.true_shapes.get(segment.name, view.shape)
                scale = max(1.0, rows / math.prod(others)) ** 0.5
                self._by_shape.setdefault((tuple(matrix.shape), scale), []).append(matrix)

    def update(self) -> None:
        """Update the weights, the momentum, the average and the compute copy."""
        if self._by_shape:
            self._orthogonalise()
            self._inner_scalars.copy_(self.scalars)
            self._inner_scalars[FlatScalar.GRAD_SCALE : FlatScalar.SKIP].fill_(1.0)  # already in the momentum
            self._descend(self.inner, self._inner_scalars, 0.0)
        self._descend(self.rest, self.scalars, self.momentum)

    def _orthogonalise(self) -> None:
        """Replace the gradients of the region by the directions u."""
        grad = self.flat.grad[self.inner]
        factor = self.scalars[FlatScalar.GRAD_SCALE] * self.scalars[FlatScalar.CLIP]
        grad.mul_(factor.to(grad.dtype))
        if self.buffer is not None:
            buffer = self.buffer[self.inner]
            moved = torch.lerp(buffer, grad, 1 - self.momentum)
            torch.where(self.scalars[FlatScalar.SKIP] != 0, buffer, moved, out=buffer)
            grad.lerp_(buffer, self.momentum)
        for (_, scale), matrices in self._by_shape.items():
            directions = orthogonalise(torch.stack(matrices), self.steps) * scale
            torch._foreach_copy_(matrices, list(directions.unbind()))

    def _descend(self, part: slice, scalars: Tensor, momentum: float) -> None:
        def of(buffer: Tensor | None) -> Tensor | None:
            return None if buffer is None else buffer[part]

        flat = self.flat
        flat_sgd_step(
            *(flat.master[part], flat.grad[part], of(self.buffer) if momentum else None),
            *(part_of(flat.table, part), scalars, of(self.ema), of(flat.copy)),
            momentum=momentum,
            nesterov=momentum > 0,
            decoupled=True,
        )
