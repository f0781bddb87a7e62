"""A batch norm's buffers and settings: what it makes of the statistics of its input, whichever kernel has them."""

from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn

from .arguments import check_batch_norm


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
    def of(cls, module: nn.BatchNorm2d, y: Tensor | None = None) -> Self:
        """The buffers that ``module`` reads in evaluation and updates in training, by torch's rules, and its settings.

        With y [N, C, H, W] it is the batch norm that follows y, and is checked.

        Raises:
            ValueError: ``module`` does not normalise y by y's own statistics, or its buffers do not fit y.
        """
        if y is not None:
            _check_next_norm(module)
        updates = module.training and module.track_running_stats
        # buffers that are no longer tracked serve evaluation, and training leaves them alone
        buffers = (module.running_mean, module.running_var) if updates or not module.training else (None, None)
        momentum = None if module.momentum is None else float(module.momentum)
        state = cls(*buffers, module.num_batches_tracked if updates else None, momentum, float(module.eps))
        if y is not None:
            try:
                check_batch_norm(y, state, None, None, True, name="input")
            except ValueError as error:
                raise ValueError(f"next_norm's {error}") from None
        return state

    def without_buffers(self) -> Self:
        """The same where another op has updated the buffers."""
        return type(self)(None, None, None, self.momentum, self.eps)

    def arguments(self) -> dict[str, Any]:
        """As the public functions and the references take them."""
        return {
            "running_mean": self.running_mean,
            "running_var": self.running_var,
            "num_batches_tracked": self.num_batches_tracked,
            "momentum": self.momentum,
            "eps": self.eps,
        }

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


BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
NO_NORM = BatchNormState(None, None, None, 0.0, 0.0)


def _check_next_norm(module: nn.BatchNorm2d) -> None:
    if not isinstance(module, nn.BatchNorm2d):
        raise ValueError(f"next_norm must be a torch.nn.BatchNorm2d, got {type(module).__name__}")
    if not module.training and module.running_mean is not None:
        raise ValueError("next_norm must be in training: in evaluation it reads no statistics of its input")
