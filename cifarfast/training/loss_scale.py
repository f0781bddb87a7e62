"""The factor on the loss that keeps fp16 gradients from vanishing."""

import torch
from torch import Tensor


class LossScale:
    """Dynamic loss scale on the device, by the rule of ``torch.amp.GradScaler``.

    The scale begins at 65,536, is halved when a gradient overflows and doubled after 2,000 steps in a row without an
    overflow. At 1 halving stops to help: a gradient that still overflows would do so without a scale.
    """

    START, END = 65536.0, 1.0
    GROWTH, BACKOFF, INTERVAL = 2.0, 0.5, 2000

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((), self.START, device=device)
        self._steps_without_overflow = torch.zeros((), dtype=torch.int32, device=device)

    def write_inverse(self, out: Tensor) -> None:
        """Write 1 / scale into a 0-d tensor, in its precision."""
        out.copy_(self.scale).reciprocal_()

    def at_its_end(self) -> Tensor:
        """Whether the scale is at its smallest, where halving does not help, 0-d bool."""
        return self.scale <= self.END

    def update(self, overflow: Tensor, *, unless: Tensor) -> None:
        """Update the scale after a step, except where ``unless`` is true; both are 0-d bools on the device."""
        state = (self.scale, self._steps_without_overflow)
        before = [value.clone() for value in state]
        torch._amp_update_scale_(*state, overflow.float(), self.GROWTH, self.BACKOFF, self.INTERVAL)
        for kept, value in zip(before, state, strict=True):
            torch.where(unless, kept, value, out=value)

    def state(self) -> dict[str, float]:
        """The scale and its counter, for a checkpoint; waits for the device."""
        return {"scale": self.scale.item(), "steps_without_overflow": int(self._steps_without_overflow.item())}

    def load(self, state: dict[str, float]) -> None:
        """Put back what ``state`` returned."""
        self.scale.fill_(state["scale"])
        self._steps_without_overflow.fill_(state["steps_without_overflow"])
