"""``python -m bench.compare_checkouts OLD NEW``: whether a user of NEW gets what a user of OLD got.

A table of what was compared, as it comes; exit code 1 where something differs or has become more. Each side's programs
run in processes of their own from its checkout, the two sides at the same time, and through entry points only: where a
checkout keeps its modules does not matter. Parts:

* ``runs``: the bits of a training of b01_lenet and of b30_pyramid_200, with torch's ops and with this package's, and of
  one that is killed and resumed, by the same side and by the other;
* ``interpreter``: the bits of a few steps through the Triton kernels, interpreted;
* ``flags``: help texts, recipes as ``--print-config`` resolves them, what is said to mistakes, public names;
* ``scores``: ``evaluate``, ``predict`` and ``report`` on one run of the old side;
* ``launches``: the kernels that a training step launches;
* ``kernels``: registers, spills and instructions of every Triton kernel on sm_90.

A "reworded" help text has the same flags, choices and defaults; "noted" is what only one side has. Neither is a
failure.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.compare_checkouts import launches, machine_code, runs, scores, texts
from bench.compare_checkouts.sides import Pair, Row, Side, SideError

PARTS: dict[str, Callable[[Pair], Iterator[Row]]] = {
    "flags": texts.compare,
    "scores": scores.compare,
    "launches": launches.compare,
    "runs": runs.compare,
    "interpreter": runs.compare_interpreted,
    "kernels": machine_code.compare,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.compare_checkouts", description=description)
    parser.add_argument("old", type=Path, metavar="OLD", help="a checkout")
    parser.add_argument("new", type=Path, metavar="NEW", help="another one")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of %(default)s")
    parser.add_argument(
        "--data-dir", type=Path, help="holds cifar-10-batches-py; without it b01 trains on made-up images"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of the runs; default: %(default)s")
    parser.add_argument("--steps", type=int, default=50, help="of b01 and b30; default: %(default)s")
    parser.add_argument("--ops", nargs="+", default=(), metavar="OP", help="whose kernels; default: all")
    parser.add_argument("--keep", type=Path, help="keep the run folders in this new folder")
    parser.add_argument("--all", action="store_true", help="print what is equal too")
    options = parser.parse_args(arguments)
    names = options.parts.split(",")
    if unknown := set(names) - PARTS.keys():
        parser.error(f"--parts {','.join(sorted(unknown))}: the parts are {','.join(PARTS)}")
    if options.steps < 2:
        parser.error("--steps must be at least 2")
    if options.keep:
        options.keep.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="compare-") as scratch:
        pair = Pair(
            Side("old", options.old.resolve()),
            Side("new", options.new.resolve()),
            scratch=Path(options.keep or scratch).resolve(),
            data_dir=options.data_dir and options.data_dir.resolve(),
            device=options.device,
            steps=options.steps,
            ops=tuple(options.ops),
        )
        return _compare(pair, names, options.all)


def _compare(pair: Pair, names: Sequence[str], show_all: bool) -> int:
    for side in (pair.old, pair.new):
        side.check()
        (pair.scratch / side.name).mkdir()
        print(f"{side.name}: {side.path.name} at {commit(side.path)}")
    failed = False
    for name in names:
        started, passed = time.monotonic(), 0
        print(f"\n{name}", flush=True)
        for row in _rows(name, pair):
            passed += row.passes
            failed |= not row.passes
            if show_all or row.outcome != "equal":
                print(f"  {row.outcome:9}  {row.what}{': ' if row.detail else ''}{row.detail}", flush=True)
        print(f"  {passed} passed, {time.monotonic() - started:.0f} s", flush=True)
    print("\nthe two differ" if failed else "\nthe two are equal")
    return int(failed)


def _rows(name: str, pair: Pair) -> Iterator[Row]:
    """The rows of a part; a program that fails is one of them."""
    try:
        yield from PARTS[name](pair)
    except SideError as error:
        yield Row(name, "it could not be compared", "different", str(error))
    except Exception:  # the other parts are compared all the same
        yield Row(name, "it could not be compared", "different", traceback.format_exc())


def commit(checkout: Path) -> str:
    """A checkout's commit, with ``+changes`` when files differ from it."""
    found = subprocess.run(
        ["git", "-C", str(checkout), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+changes"],
        capture_output=True,
        text=True,
    )
    return found.stdout.strip() or "an unknown commit"


if __name__ == "__main__":
    sys.exit(main())
