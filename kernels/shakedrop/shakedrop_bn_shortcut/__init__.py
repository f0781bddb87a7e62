"""The tail of a PyramidNet block: the branch's last batch norm, ShakeDrop and the padded, pooled shortcut."""

from .for_norm import shakedrop_bn_shortcut_for_norm
from .module import ShakeDropTail
from .op import shakedrop_bn_shortcut, shakedrop_bn_shortcut_stats

__all__ = [
    "ShakeDropTail",
    "shakedrop_bn_shortcut",
    "shakedrop_bn_shortcut_for_norm",
    "shakedrop_bn_shortcut_stats",
]
