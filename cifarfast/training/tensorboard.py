"""TensorBoard events of a run, when it asks for them."""

from pathlib import Path
from typing import Any

from ..errors import UserError


class TensorBoardLogger:
    """Writes each epoch's numbers as TensorBoard scalars into ``folder``, from ``first_epoch`` on.

    Raises:
        UserError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, first_epoch: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("--tensorboard needs the package tensorboard: pip install cifarfast[tensorboard]") from None
        # epochs that a killed run logged after its last checkpoint are hidden by the resumed run's
        self._writer = SummaryWriter(str(folder), purge_step=first_epoch)

    def add(self, row: dict[str, Any], timing: dict[str, Any]) -> None:
        """Log a row of ``metrics.csv`` and one of ``timing.csv``."""
        for name, value in (row | timing).items():
            if name != "epoch":
                self._writer.add_scalar(name, value, row["epoch"])
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
