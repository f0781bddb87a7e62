"""What the commands say: help texts, mistakes, recipes as they are resolved, and the public names."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from bench.compare_checkouts.sides import Pair, Row, Side, compared

PART = "flags"
Call = tuple[str, tuple[str, ...]]
# those that the README names, beside `python -m cifarfast COMMAND`
MODULES = (
    *("cifarfast.train", "cifarfast.evaluate", "cifarfast.report", "cifarfast.reproduce", "cifarfast.ensemble"),
    *("cifarfast.predict", "cifarfast.export", "cifarfast.augment_preview", "cifarfast.env"),
    *("cifarfast.kernels.report", "cifarfast.kernels.tune", "bench.launches", "bench.gpu_check"),
)
OTHERS: tuple[tuple[str, ...], ...] = (
    *(("--version",), ("models",), ("models", "wrn*", "--num-classes=7"), ("recipes",), ("datasets",), ()),
    *(("trian",), ("train", "--epoch=3"), ("train", "--epochs=0"), ("train", "--lr=x"), ("train", "--resume")),
    *(("evaluate", "no-such-run"), ("export", "no-such-run"), ("predict", "no-such-run"), ("train", "--recipe=b99")),
)
# of a help text: flags, what stands for their values, and defaults
_FLAGS = re.compile(r"--[a-z][\w-]*|\{[^}]*\}|\(default: [^)]*\)|\(required\)")
_NAMES = """
import json, cifarfast, cifarfast.kernels
found = {"cifarfast": cifarfast.__all__, "cifarfast.kernels": cifarfast.kernels.__all__}
found["cifarfast.Run"] = [name for name in dir(cifarfast.Run) if not name.startswith("_")]
print(json.dumps(found))
"""


def compare(pair: Pair) -> Iterator[Row]:
    """Every command's help, every recipe's settings, mistakes, public names."""
    names = [json.loads(text) for text in pair.both(lambda side: side.run("-c", _NAMES))]
    for module, old in names[0].items():
        gone, added = (sorted(set(a) - set(b)) for a, b in ((old, names[1][module]), (names[1][module], old)))
        yield compared(PART, f"names of {module}", [f"{name} is gone" for name in gone])
        if added:
            yield Row(PART, f"names of {module}", "noted", f"new: {', '.join(added)}")
    recipes = [_recipes(side) for side in (pair.old, pair.new)]
    yield compared(PART, "recipes", sorted(recipes[0] ^ recipes[1]))
    calls: list[Call] = [("cifarfast", ("--help",)), *(("cifarfast", others) for others in OTHERS)]
    calls += [("cifarfast", (command, "--help")) for command in _commands(pair)]
    calls += [(module, ("--help",)) for module in MODULES]
    calls += [("cifarfast", ("train", f"--recipe={name}", "--print-config")) for name in sorted(recipes[0])]
    files = f"--data-dir={pair.scratch / 'no-data'}"
    calls += [("cifarfast", ("train", files, "--device=cpu", "--print-config"))]
    found = pair.both(lambda side: side.entries(calls))
    for (module, arguments), old, new in zip(calls, *found, strict=True):
        name = f"{module} {' '.join(arguments)}".strip()
        differences = [
            f"{key}: {_first_difference(str(old[key]), str(new[key]))}" for key in old if old[key] != new[key]
        ]
        if "--help" in arguments and old["code"] == new["code"] and differences and flags_of(old) == flags_of(new):
            yield Row(PART, name, "reworded", "; ".join(differences))
        else:
            yield compared(PART, name, differences)


def _recipes(side: Side) -> set[str]:
    return {path.stem for path in Path(side.path, "cifarfast", "recipes").glob("*.toml")}


def _commands(pair: Pair) -> list[str]:
    """The commands that the old side lists."""
    text = pair.old.cifarfast("--help").partition("commands:\n")[2]
    return [line.split()[0] for line in text.splitlines() if line.strip()]


def flags_of(said: dict[str, object]) -> list[str]:
    """The flags of a help text with their choices and defaults, however its lines are broken."""
    return _FLAGS.findall(" ".join(f"{said['out']}{said['err']}".replace("│", " ").split()))


def _first_difference(old: str, new: str) -> str:
    """The first lines that differ."""
    lines = zip([*old.splitlines(), "(end)"], [*new.splitlines(), "(end)"], strict=False)
    return next((f"{a.strip()!r} → {b.strip()!r}" for a, b in lines if a != b), "other line ends")
