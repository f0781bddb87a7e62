"""A batch norm's buffers and settings: what it makes of the statistics of its input, whichever kernel has them."""

from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn

from .arguments import check_arguments

Statistics = tuple[Tensor, Tensor] | Tensor
"""Of a tensor [N, C, H, W], from the op that made it: mean and biased variance, [C] each; or [3, C], the mean, its part
below its rounding and ``1/√(var + ε)``, with which that op has updated the running ones of the batch norm to come."""


@dataclass(frozen=True)
class BatchNormState:
    """The buffers and settings with which a batch norm makes statistics [3, C] of mean and variance.

    Args:
        running_mean, running_var: [C], updated; None: nothing to update.
        num_batches_tracked: [] int64, incremented.
        momentum: None for ``1 / num_batches_tracked``.
        eps: added to the variance.
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    momentum: float | None
    eps: float

    @classmethod
    def of(cls, module: nn.BatchNorm2d, y: Tensor) -> Self:
        """What ``module`` does in training with y [N, C, H, W].

        Raises:
            ValueError: it does not normalise y by y's own statistics, or its buffers do not fit y.
        """
        if not isinstance(module, nn.BatchNorm2d):
            raise ValueError(f"next_norm must be a torch.nn.BatchNorm2d, got {type(module).__name__}")
        if not module.training and module.running_mean is not None:
            raise ValueError("next_norm must be in training: in evaluation it reads no statistics of its input")
        # as in BatchNorm2d, training leaves buffers alone that are not tracked
        updates = module.training and module.track_running_stats
        buffers = (module.running_mean, module.running_var) if updates else (None, None)
        count = module.num_batches_tracked if updates else None
        settings: dict[str, Any] = {"momentum": module.momentum, "eps": module.eps, "training": True}
        settings |= {"act": "identity", "negative_slope": 0.0, "name": "input"}
        try:
            check_arguments(y, *buffers, None, None, count, **settings)
        except ValueError as error:
            raise ValueError(f"next_norm's {error}") from None
        momentum = None if module.momentum is None else float(module.momentum)
        return cls(*buffers, count, momentum, float(module.eps))

    def arguments(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, float | None, float]:
        """As the ops take them."""
        return self.running_mean, self.running_var, self.num_batches_tracked, self.momentum, self.eps

    def kernel_arguments(self) -> dict[str, Any]:
        """As kernels with ``store_statistics`` take them; of a cumulative average the count is incremented here, for
        more than one program reads it."""
        cumulative = self.momentum is None and self.running_mean is not None
        if cumulative:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
        return {
            "running_mean_ptr": self.running_mean,
            "running_var_ptr": self.running_var,
            "count_ptr": self.num_batches_tracked,
            "momentum": 0.0 if self.momentum is None else self.momentum,
            "eps": self.eps,
            "CUMULATIVE": cumulative,
        }


NO_NORM = BatchNormState(None, None, None, 0.0, 0.0)
