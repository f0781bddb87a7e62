"""The tail of a PyramidNet block: the branch's last batch norm, ShakeDrop and the padded, pooled shortcut."""

from .module import ShakeDropTail
from .op import shakedrop_bn_shortcut

__all__ = ["ShakeDropTail", "shakedrop_bn_shortcut"]
