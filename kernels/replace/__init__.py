"""One call that puts the fused ops into an existing model."""

from .report import Left, Replaced, ReplaceReport
from .swap import replace_modules

__all__ = ["Left", "ReplaceReport", "Replaced", "replace_modules"]
