"""What the fused ops set out to reach on an H200, and what the rows of ``ops.json`` say about it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]

LARGE_BYTES = 64 << 20  # batch norm's bandwidth is judged on tensors above this
CONVOLUTIONS = ("bn_act_conv2d", "conv2d_bn_act", "conv2d")
BANDWIDTH, COMPILED, EAGER, LIBRARY = "copy bandwidth", "torch.compile", "torch eager", "library"


@dataclass(frozen=True)
class Wanted:
    """A target of an op: at least so many times something measured in the same session.

    Args:
        ops: that it is for.
        measure: ``copy bandwidth`` for the share of it, else the implementation whose time is divided by ours.
        least: the number to reach.
        what: it is, in words.
        large_only: whether it is for tensors above ``LARGE_BYTES`` only.
    """

    ops: tuple[str, ...]
    measure: str
    least: float
    what: str
    large_only: bool = False


FLAT = ("flat_optimizer", "flat_ema", "flat_perturb")
WANTED = (
    Wanted(("batch_norm_act",), BANDWIDTH, 0.85, "share of copy bandwidth", large_only=True),
    Wanted(("batch_norm_act",), COMPILED, 1.0, "times as fast as torch.compile"),
    Wanted(FLAT, BANDWIDTH, 0.85, "share of copy bandwidth"),
    Wanted(FLAT, EAGER, 1.5, "times as fast as torch's fused and foreach"),
    Wanted(("shakedrop_bn_shortcut",), EAGER, 3.0, "times as fast as torch eager"),
    Wanted(("cross_entropy",), EAGER, 2.0, "times as fast as torch eager"),
    Wanted(CONVOLUTIONS, LIBRARY, 0.7, "of the rate of cuDNN's convolution alone"),
)


def verdict_name(op: str, case: str, wanted: Wanted) -> str:
    """The name of a verdict's row."""
    return f"verdict | {op} {case} | {wanted.what}"


def verdicts(rows: Iterable[Row], copy_bytes_per_second: float) -> Iterator[Row]:
    """A row for each target of each case that the rows allow to judge: what was wanted, what it is, whether it is met.

    Args:
        rows: of ``test_ops.py``, those of one session.
        copy_bytes_per_second: measured in that session.
    """
    seconds = {(row["op"], row["case"], row["implementation"]): row for row in rows if "implementation" in row}
    for (op, case, implementation), ours in seconds.items():
        if implementation != "cifarfast":
            continue
        for wanted in WANTED:
            if op not in wanted.ops or (wanted.large_only and ours["largest_tensor_bytes"] <= LARGE_BYTES):
                continue
            if wanted.measure == BANDWIDTH:
                value = ours["gigabytes_per_second"] * 1e9 / copy_bytes_per_second
            elif other := seconds.get((op, case, wanted.measure)):
                value = other["median_seconds"] / ours["median_seconds"]
            else:
                continue
            yield {
                "name": verdict_name(op, case, wanted),
                "op": op,
                "case": case,
                "what": wanted.what,
                "wanted": wanted.least,
                "value": value,
                "met": value >= wanted.least,
            }
