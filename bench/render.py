"""Write the tables of README and docs from recipes, OpSpecs and bench/results: ``python bench/render.py [--check]``.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``; its contents are never typed.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from cifarfast.kernels.testing.spec import all_specs
from cifarfast.models import list_models, model_info
from cifarfast.report.reproduction import reproduction_table
from cifarfast.studies.catalogue import catalogue_table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
AUGMENTATIONS = {
    "crop_flip_cutout": "crop, flip, cutout",
    "sa_autoaugment": "crop, flip, rotation, AutoAugment",
    "sa_autoaugment_cutmix": "crop, flip, rotation, AutoAugment, CutMix",
}
CONVOLUTIONS = {"library": "cuDNN's", "triton": "Triton's"}
ON_A_CPU = """<details>
<summary>On a CPU, the first case of each op. There the ops are plain torch, and a case's images are cut down to a few,
which stay in its caches: this says what the ops cost beside torch's own, and nothing about the kernels.</summary>

{}

</details>"""
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def models() -> str:
    """Every registered model with its size."""
    infos = [model_info(name) for name in list_models()]
    return markdown(
        ("model", "parameters", "M MACs an image", "what"),
        ((f"`{i.name}`", f"{i.parameters:,}", f"{i.macs / 1e6:,.1f}", i.description) for i in infos),
    )


def documents(suite: str) -> list[dict[str, Any]]:
    """The committed results of a benchmark, one document a device and session."""
    found = []
    for path in sorted(RESULTS.glob(f"*/{suite}.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        found += [document, *document.get("earlier", [])]
    return found


def device_name(environment: dict[str, Any]) -> str:
    """The GPU of a session, or its CPU."""
    return environment["gpu"]["name"] if environment["gpu"] else environment["cpu"]


def overhead() -> str:
    """The trainer's time beside a bare loop's."""
    rows = []
    for document in documents("overhead"):
        for row in document["rows"]:
            epoch = row["ratio_of_an_epoch"]
            rows.append(
                (
                    row["recipe"],
                    "official" if row["data"]["official"] else "copy",
                    f"{row['best_test_accuracy_percent']:.2f}",
                    f"{row['test_accuracy_percent']:.2f}",
                    f"{row['seconds']:.1f}",
                    f"{row['bare_loop_seconds']:.1f}",
                    f"{epoch['median']:.3f} ({epoch['p20']:.3f} … {epoch['p80']:.3f})",
                    document["environment"]["cpu"],
                )
            )
    header = ("recipe", "CIFAR-10", "best %", "last %", "train s", "bare loop s", "ratio of an epoch (20 … 80 %)", "on")
    return markdown(header, rows)


def op_calls() -> str:
    """What a call of an op costs the host, of two commits beside each other."""
    rows = [
        (
            *(f"`{row['op']}`", row["mode"], row["path"]),
            *(f"{row[key]:,.1f}" for key in ("old_microseconds", "new_microseconds")),
            _spread(row["ratio_of_a_turn"], 1, 2),
            *(row[key][:7] for key in ("old_commit", "new_commit")),
            device_name(document["environment"]),
        )
        for document in documents("op_call")
        for row in document["rows"]
    ]
    if not rows:
        return "No measurement is committed yet."
    return markdown(("op", "what", "path", "µs before", "µs after", "after / before", "before", "after", "on"), rows)


def train_step() -> str:
    """A training step on GPUs beside torch's."""
    return step_table(document for document in documents("train_step") if document["environment"]["gpu"])


def step_table(documents: Iterable[dict[str, Any]]) -> str:
    """The steps of ``test_train_step.py``'s documents, those of a network, an optimizer and a batch together."""
    rows = [
        (row, document["environment"]["gpu"]) for document in documents for row in document["rows"] if "step_ms" in row
    ]
    rows.sort(key=lambda pair: (pair[0]["arch"], pair[0]["optimizer"], pair[0]["batch"], pair[0]["dropout"]))
    header = (
        *("network", "optimizer, batch", "step", "images/s", "ms (20 … 80 %)", "× cifarfast's time"),
        *("kernels", "GB", "% of floor b", "on"),
    )
    return markdown(header, (_step_cells(row, gpu) for row, gpu in rows))


def _step_cells(row: dict[str, Any], gpu: dict[str, Any] | None) -> tuple[str, ...]:
    ms, memory, ratio = row["step_ms"], row["peak_memory_bytes"], row["times_as_long_as_cifarfast"]
    return (
        f"`{row['arch']}`" + (" with dropout" if row["dropout"] else ""),
        f"{row['optimizer'].upper()}, {row['batch']}",
        row["contender"],
        f"{row['images_per_second']:,.0f}",
        f"{ms['median']:.2f} ({ms['p20']:.2f} … {ms['p80']:.2f})",
        "–" if ratio is None else f"{ratio:.2f}",
        f"{row['kernels_per_step']:,.0f}" if "kernels_per_step" in row else "–",
        "–" if memory is None else f"{memory / 1e9:.2f}",
        f"{row['percent_of_floor']['nominal_h200']['b']:.0f}",
        gpu["name"] if gpu else "CPU",
    )


def augment() -> str:
    """Seconds to augment 50,000 images once, beside other programs."""
    rows: list[tuple[str, ...]] = []
    for document in documents("augment"):
        device = device_name(document["environment"])
        ours = {row["transforms"]: row["seconds"] for row in document["rows"] if row["contender"] == "cifarfast"}
        for row in document["rows"]:
            cells = _augment_cells(row, ours[row["transforms"]]["median"])
            rows += [(AUGMENTATIONS[row["transforms"]], *more, device) for more in cells]
    rows.sort(key=lambda cells: list(AUGMENTATIONS.values()).index(cells[0]))
    return markdown(("augmentation", "by", "ms (20 … 80 %)", "times cifarfast's", "on"), rows)


def _augment_cells(row: dict[str, Any], ours: float) -> list[tuple[str, str, str]]:
    """A row's program, its time and that as a multiple of ours; and torchvision's, where the two took turns."""
    if "epoch_ms" in row:
        return [(row["contender"], _spread(row["epoch_ms"], 1, 2), f"{row['epoch_ms']['median'] / ours / 1e3:.2f}")]
    seconds = row["seconds"]
    cells = [(row["contender"], _spread(seconds, 1e3, 0), f"{seconds['median'] / ours:.1f}")]
    if "torchvision_loader_seconds" in row:
        loader = f"torchvision v2, DataLoader with {row['workers']} workers"
        cells.append((loader, _spread(row["torchvision_loader_seconds"], 1e3, 0), _spread(row["ratio"], 1, 1)))
    return cells


def _spread(values: dict[str, float], factor: float, digits: int) -> str:
    """Median and quantiles, as in ``1.2 (1.1 … 1.4)``."""
    median, low, high = (f"{factor * values[key]:,.{digits}f}" for key in ("median", "p20", "p80"))
    return f"{median} ({low} … {high})"


def launches() -> str:
    """How many kernels a training step launches."""
    rows = [
        (
            *(f"`{row['arch']}`", row["optimizer"].upper(), CONVOLUTIONS[row["convolutions"]]),
            *(f"{row[key]:,}" for key in ("launches", "triton", "cuda", "torch")),
        )
        for document in documents("launches")
        for row in document["rows"]
    ]
    return markdown(("network", "optimizer", "convolutions", "launches", "Triton's", "CUDA's", "torch's"), rows)


def ops() -> str:
    """Every fused op, from its OpSpec."""
    lines = ["| op | replaces | what it does | backends |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *(spec.docs_row() for spec in all_specs())])


def op_times() -> str:
    """The fused ops' times: every case on GPUs, and folded away one case an op on a CPU."""
    on_gpus, on_cpus = [], []
    for document in documents("ops"):
        (on_gpus if document["environment"]["gpu"] else on_cpus).append(document)
    if not on_gpus and not on_cpus:
        return "No measurement is committed yet."
    tables = [op_table(on_gpus)] if on_gpus else []
    return "\n\n".join([*tables, ON_A_CPU.format(op_table(on_cpus, short=True))] if on_cpus else tables)


def op_table(documents: Iterable[dict[str, Any]], *, short: bool = False) -> str:
    """The rows of ``test_ops.py``'s documents that are ours, by op; with ``short`` the first of each."""
    timed: dict[tuple[str, ...], dict[str, Any]] = {}
    for document in documents:
        device = device_name(document["environment"])
        for row in (row for row in document["rows"] if "implementation" in row):
            timed[device, row["op"], row["case"], row["implementation"]] = row
    ours = sorted((key for key in timed if key[3].startswith("cifarfast")), key=lambda key: key[:2])
    if short:
        ours = [next(keys) for _, keys in groupby(ours, key=lambda key: key[:2])]
    cells = []
    for device, op, case, implementation in ours:
        figures = _op_cells(timed, (device, op, case), implementation)
        cells.append((f"`{op}`", case + ", own kernels" * (implementation != "cifarfast"), *figures, device))
    header = ("op", "case", "µs (20 … 80 %)", "GB/s", "TFLOP/s", "% of roofline", "peak MB")
    return markdown((*header, "× torch eager", "× torch.compile", "× library", "on"), cells)


def _op_cells(
    timed: dict[tuple[str, ...], dict[str, Any]], key: tuple[str, ...], implementation: str
) -> tuple[str, ...]:
    row = timed[*key, implementation]
    low, median, high = (_figure(1e6 * row[f"{name}_seconds"]) for name in ("quantile_20", "median", "quantile_80"))
    speed = {}
    for name in ("torch eager", "torch.compile", "library"):
        other = timed.get((*key, name))
        speed[name] = f"{other['median_seconds'] / row['median_seconds']:.2f}" if other else "–"
    if library := timed.get((*key, "library")):
        speed["library"] += f", {library['library'].removeprefix('cuDNN ')}"
    memory = row["peak_memory_bytes"]
    return (
        f"{median} ({low} … {high})",
        *(_figure(row[name]) for name in ("gigabytes_per_second", "teraflops_per_second", "roofline_percent")),
        "–" if memory is None else _figure(memory / 1e6),
        *speed.values(),
    )


def _figure(value: float) -> str:
    """Three digits, or all before the point."""
    if value < 0.001:
        return "< 0.001"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def reproduction() -> str:
    """What reproducing recipes gave, beside what their sources report."""
    return reproduction_table([row for document in documents("reproduction") for row in document["rows"]])


TABLES: dict[str, Callable[[], str]] = {
    "recipes": catalogue_table,
    "reproduction": reproduction,
    "models": models,
    "ops": ops,
    "op_times": op_times,
    "overhead": overhead,
    "op_calls": op_calls,
    "train_step": train_step,
    "augment": augment,
    "launches": launches,
}


def render(text: str) -> str:
    """``text`` with every marked table made anew."""
    return MARKED.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[3]}", text)


def pages() -> list[Path]:
    """The files with tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main() -> int:
    """Render every page, or with ``--check`` only say which are out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a table is out of date")
    check = parser.parse_args().check
    stale = []
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = render(before)
        if after != before:
            stale.append(page.relative_to(ROOT).as_posix())
            if not check:
                page.write_text(after, encoding="utf-8")
    if check and stale:
        print(f"{', '.join(stale)}: a table is out of date; run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
