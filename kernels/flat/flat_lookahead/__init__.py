"""Lookahead: slow weights that the fast ones return to every few steps."""

from .op import flat_lookahead

__all__ = ["flat_lookahead"]
