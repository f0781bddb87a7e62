"""How many kernels a training step launches, as ``python -m bench.launches`` of both sides counts them."""

import re
from collections.abc import Iterator
from itertools import product
from typing import Any

from bench.compare_checkouts.sides import Pair, Row, SideError

PART = "launches"
CASES = tuple(product(("wrn16_8", "pyramidnet110_a150_shakedrop"), ("sgd", "asam"), ("library", "triton")))
_LINE = re.compile(r"\| `(?P<name>[^`]+)` \| (?P<kind>\w+) \| (?P<count>\d+) \|")


def compare(pair: Pair) -> Iterator[Row]:
    """The kernels of each network, optimizer and choice of convolutions, by name."""
    flags = [(f"--arch={arch}", f"--optimizer={how}", f"--convolutions={by}") for arch, how, by in CASES]
    found = pair.both(lambda side: side.entries([("bench.launches", each) for each in flags]))
    for case, old, new in zip(CASES, *map(list, found), strict=True):
        yield from compare_counts(" ".join(case), counts(old), counts(new))


def counts(said: dict[str, Any]) -> dict[tuple[str, str], int]:
    """Kind and name of a kernel or operator → launches, from the printed table."""
    lines = _LINE.finditer(str(said["out"]))
    found = {(line["kind"], line["name"]): int(line["count"]) for line in lines}
    if said["code"] or not found:
        raise SideError(f"bench.launches ended with {said['code']}: {said['err'] or said['out']}")
    return found


def compare_counts(name: str, old: dict[tuple[str, str], int], new: dict[tuple[str, str], int]) -> Iterator[Row]:
    """All launches, those of each kind, and what has become more; what only one side has is noted."""
    kinds = dict.fromkeys(kind for kind, _ in (*old, *new))
    for kind in ("all", *kinds):
        before, after = (sum(n for (k, _), n in side.items() if kind in (k, "all")) for side in (old, new))
        yield Row(
            PART, f"{name}: {kind}", outcome(before, after), str(before) if before == after else f"{before} → {after}"
        )
    for kind, kernel in old.keys() & new.keys():
        before, after = old[kind, kernel], new[kind, kernel]
        if after > before:
            yield Row(PART, f"{name}: {kernel} ({kind})", "more", f"{before} → {after}")
    for side, others, which in ((old, new, "old"), (new, old, "new")):
        if alone := sorted(f"{kernel} ({kind}) {side[kind, kernel]}" for kind, kernel in side.keys() - others.keys()):
            yield Row(PART, f"{name}: only the {which} side launches", "noted", ", ".join(alone))


def outcome(before: float, after: float) -> str:
    """ "equal", "fewer" or "more"."""
    return "equal" if before == after else "fewer" if after < before else "more"
