"""TensorBoard events of a run, when it asks for them."""

import contextlib
import sys
from collections.abc import Iterator
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
        self._works = True

    def add(self, row: dict[str, Any], timing: dict[str, Any]) -> None:
        """Log a row of ``metrics.csv`` and one of ``timing.csv``."""
        with self._stopping_where_it_fails():
            for name, value in (row | timing).items():
                if name != "epoch" and self._works:
                    self._writer.add_scalar(name, value, row["epoch"])
            if self._works:
                self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        with self._stopping_where_it_fails():
            if self._works:
                self._writer.close()

    @contextlib.contextmanager
    def _stopping_where_it_fails(self) -> Iterator[None]:
        """The training goes on without events where they cannot be written."""
        try:
            yield
        except Exception as error:  # the writer's thread hands on what it met
            self._works = False
            print(f"cifarfast: going on without TensorBoard: {' '.join(str(error).split())}", file=sys.stderr)
