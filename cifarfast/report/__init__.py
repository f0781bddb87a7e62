"""Reports: read run folders, and nothing else."""

from .comparison import comparison_table

__all__ = ["comparison_table"]
