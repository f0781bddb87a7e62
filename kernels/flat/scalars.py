"""Numbers that change from step to step, in device memory: a captured graph reads them, so they can change under it.

They are fp64: a bias correction 1 − βᵗ keeps more digits than the fp32 weights it is for.
"""

from enum import IntEnum

import torch
from torch import Tensor

from ..arguments import names_misfits


class FlatScalar(IntEnum):
    """Index into the tensor that ``flat_scalars`` makes. The caller sets the first five, the steps write the others."""

    LR = 0
    """Learning rate of the next step."""
    EMA_DECAY = 1
    """Share of the old average that an EMA keeps."""
    GRAD_SCALE = 2
    """Factor on every gradient: the inverse of the loss scale."""
    CLIP = 3
    """A second factor on every gradient, which ``flat_clip`` sets."""
    SKIP = 4
    """Not 0: a step changes neither weights, state, EMA nor step count; it still writes the compute copy."""
    STEP = 5
    """Steps done."""
    MU_PRODUCT = 6
    """NAdam's product of the momenta so far."""
    STEP_SIZE = 7
    """This step's factor on the momentum (SGD and RMSprop without momentum, Adagrad: on the gradient)."""
    GRAD_STEP = 8
    """NAdam's factor on the gradient."""
    ROOT_FACTOR = 9
    """Factor on √exp_avg_sq: 1/√(1 − β₂ᵗ)."""
    GRAD_FACTOR = 10
    """GRAD_SCALE · CLIP."""


@names_misfits
def flat_scalars(
    *, lr: float, ema_decay: float = 0.0, grad_scale: float = 1.0, device: torch.device | str = "cpu"
) -> Tensor:
    """Make the scalars of a run that has done no step: fp64, ``[len(FlatScalar)]``.

    Change one between steps with ``scalars[FlatScalar.LR] = 0.05``, or inside a captured graph with
    ``scalars[FlatScalar.LR].copy_(schedule[step])``. The tensor is part of a checkpoint.
    """
    values = [0.0] * len(FlatScalar)
    values[FlatScalar.LR] = lr
    values[FlatScalar.EMA_DECAY] = ema_decay
    values[FlatScalar.GRAD_SCALE] = grad_scale
    values[FlatScalar.CLIP] = 1.0
    values[FlatScalar.MU_PRODUCT] = 1.0
    return torch.tensor(values, dtype=torch.float64, device=device)
