"""The factor on the loss that keeps fp16 gradients from vanishing."""

import torch
from torch import Tensor


class LossScale:
    """Dynamic loss scale on the device, by the rule of ``torch.amp.GradScaler``.

    Halved when a gradient overflows, doubled after 2,000 steps in a row without; it begins at 65,536.
    """

    GROWTH, BACKOFF, INTERVAL = 2.0, 0.5, 2000

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((), 65536.0, device=device)
        self._steps_without_overflow = torch.zeros((), dtype=torch.int32, device=device)

    def inverse(self) -> Tensor:
        """1 / scale in fp64."""
        return 1 / self.scale.double()

    def update(self, overflow: Tensor) -> None:
        """Take note of a step; ``overflow`` is a 0-d bool on the device."""
        torch._amp_update_scale_(
            self.scale, self._steps_without_overflow, overflow.float(), self.GROWTH, self.BACKOFF, self.INTERVAL
        )

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps; waits for the device."""
        return {"scale": self.scale.item(), "steps_without_overflow": int(self._steps_without_overflow.item())}

    def load(self, state: dict[str, float]) -> None:
        """Put back what ``state`` returned."""
        self.scale.fill_(state["scale"])
        self._steps_without_overflow.fill_(state["steps_without_overflow"])
