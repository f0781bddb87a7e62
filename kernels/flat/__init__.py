"""What the ops over one flat buffer share: its layout, the segment table, the scalars on the device, the checks."""

from .scalars import FlatScalar, flat_scalars
from .table import FLAT_BLOCK, FlatTable, flat_table

__all__ = ["FLAT_BLOCK", "FlatScalar", "FlatTable", "flat_scalars", "flat_table"]
