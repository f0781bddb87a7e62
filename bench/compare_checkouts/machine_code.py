"""Registers, spills and instructions of every Triton kernel of both sides, compiled for sm_90 without a GPU.

``python -m cifarfast.kernels.report`` of each side compiles its kernels; Triton's compilation listener says which, with
what constants and types, and where the machine code is. What Triton's cache has is not compiled again.

Kernels of the two sides are matched by the function's name and, in this order, the same machine code, the same
configuration by the arguments' names, the same values whatever the arguments are called, and the most settings in
common; last, the same machine code under another name.
"""

import hashlib
import json
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from bench.compare_checkouts.sides import HERE, Pair, Row, Side, SideError

PART = "kernels"
ARCH = "sm_90"
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)[^;]*;")


@dataclass(frozen=True)
class Code:
    """What a cubin needs: registers and spilled bytes a thread, instructions without padding, and their digest."""

    registers: int
    spilled_bytes: int
    instructions: int
    digest: str

    def numbers(self) -> tuple[int, int, int]:
        """What must not grow."""
        return self.registers, self.spilled_bytes, self.instructions


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel: its function's name, how it was specialised, its machine code."""

    name: str
    constants: tuple[tuple[str, Any], ...]
    types: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, Any], ...]
    code: Code = field(compare=False)

    def __str__(self) -> str:
        warps = dict(self.settings).get("num_warps")
        return f"{self.name}({', '.join(f'{name}={value}' for name, value in self.constants)}; {warps} warps)"


Match = tuple[Kernel, Kernel, str]


def compare(pair: Pair) -> Iterator[Row]:
    """Every kernel that both sides have."""
    old, new = pair.both(lambda side: kernels(pair, side))
    matches, only_old, only_new = match(old, new)
    yield from compare_matches(matches)
    for side, alone in (("old", only_old), ("new", only_new)):
        if alone:
            names = Counter(kernel.name for kernel in alone)
            yield Row(PART, f"only the {side} side", "noted", ", ".join(f"{n} × {name}" for name, n in names.items()))


def kernels(pair: Pair, side: Side) -> list[Kernel]:
    """The kernels that a side's compile report compiles."""
    file = pair.scratch / f"{side.name}-kernels.jsonl"
    ops = ("--op", *pair.ops) if pair.ops else ()
    side.run(str(HERE / "record_compiles.py"), str(file), "--arch", ARCH, "--jobs", "1", *ops, codes=(0, 1))
    if not file.exists():
        raise SideError(f"{side.name}: the compile report compiled nothing in its own process")
    entries = [json.loads(line) for line in dict.fromkeys(file.read_text(encoding="utf-8").splitlines())]
    return [
        Kernel(
            entry["name"],
            constants=_sorted(entry["constants"]),
            types=_sorted(entry["types"]),
            settings=_sorted(entry["settings"]),
            code=read_cubin(entry["cubin"]),
        )
        for entry in entries
    ]


def _sorted(items: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(items.items()))


def read_cubin(path: str) -> Code:
    """Read a kernel's machine code."""
    from triton.tools.disasm import path_to_cuobjdump

    def said(flag: str) -> str:
        return subprocess.run([path_to_cuobjdump(), flag, path], capture_output=True, text=True, check=True).stdout

    return parse_code(said("--dump-resource-usage"), said("-sass"))


@cache
def parse_code(usage: str, sass: str) -> Code:
    """From what ``cuobjdump`` prints of one kernel."""
    counts = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage))
    lines = [found[0] for found in _INSTRUCTION.finditer(sass) if found[1] != "NOP"]
    text = "\n".join(" ".join(line.split()) for line in lines)
    spilled = int(counts["STACK"]) + int(counts["LOCAL"])
    return Code(int(counts["REG"]), spilled, len(lines), hashlib.sha256(text.encode()).hexdigest())


def match(old: Sequence[Kernel], new: Sequence[Kernel]) -> tuple[list[Match], list[Kernel], list[Kernel]]:
    """Pairs with how they were found, and what is left on each side."""
    keys: tuple[tuple[str, Callable[[Kernel], Hashable]], ...] = (
        ("same code", lambda k: (k.name, k.code.digest)),
        ("same configuration", lambda k: (k.name, k.constants, k.types, _launch(k))),
        ("same values", lambda k: (k.name, _values(k.constants), _values(k.types), _launch(k))),
    )
    found: list[Match] = []
    for how, key in keys:
        pairs, old, new = _match_by(key, old, new)
        found += [(a, b, how) for a, b in pairs]
    pairs, old, new = _match_nearest(old, new)
    found += [(a, b, "most in common") for a, b in pairs]
    pairs, old, new = _match_by(lambda k: k.code.digest, old, new)
    found += [(a, b, "same code, other name") for a, b in pairs]
    return found, list(old), list(new)


def _launch(kernel: Kernel) -> tuple[tuple[str, Any], ...]:
    """The settings that a launch gives; shared memory is a result."""
    return tuple(item for item in kernel.settings if item[0] != "shared")


def _values(items: tuple[tuple[str, Any], ...]) -> tuple[str, ...]:
    return tuple(sorted(str(value) for _, value in items))


def _match_by(
    key: Callable[[Kernel], Hashable], old: Sequence[Kernel], new: Sequence[Kernel]
) -> tuple[list[tuple[Kernel, Kernel]], list[Kernel], list[Kernel]]:
    waiting = defaultdict[Hashable, list[Kernel]](list)
    for kernel in new:
        waiting[key(kernel)].append(kernel)
    pairs, left = [], []
    for kernel in old:
        if others := waiting[key(kernel)]:
            pairs.append((kernel, others.pop(0)))
        else:
            left.append(kernel)
    return pairs, left, [kernel for others in waiting.values() for kernel in others]


def _match_nearest(
    old: Sequence[Kernel], new: Sequence[Kernel]
) -> tuple[list[tuple[Kernel, Kernel]], list[Kernel], list[Kernel]]:
    """Pairs of one name with the same launch settings, those with the most constants and types in common first."""
    candidates = [
        (len({*a.constants, *a.types} & {*b.constants, *b.types}), i, j)
        for i, a in enumerate(old)
        for j, b in enumerate(new)
        if a.name == b.name and _launch(a) == _launch(b)
    ]
    pairs, used_old, used_new = [], set[int](), set[int]()
    for _, i, j in sorted(candidates, key=lambda found: (-found[0], *found[1:])):
        if i not in used_old and j not in used_new:
            used_old.add(i)
            used_new.add(j)
            pairs.append((old[i], new[j]))
    rest_old = [kernel for i, kernel in enumerate(old) if i not in used_old]
    return pairs, rest_old, [kernel for j, kernel in enumerate(new) if j not in used_new]


def compare_matches(matches: Sequence[Match]) -> Iterator[Row]:
    """How the pairs were found, and each pair whose numbers differ."""
    for how, count in Counter(how for _, _, how in matches).items():
        yield Row(PART, f"{count} kernels matched by {how}", "equal" if how == "same code" else "noted")
    for old, new, how in matches:
        before, after = old.code.numbers(), new.code.numbers()
        if before == after:
            continue
        names = ("registers", "spilled bytes", "instructions")
        changed = zip(names, before, after, strict=True)
        detail = ", ".join(f"{name} {a} → {b}" for name, a, b in changed if a != b)
        grown = any(b > a for a, b in zip(before, after, strict=True))
        yield Row(PART, str(old), "more" if grown else "fewer", f"{detail} (matched by {how}: {new})")
