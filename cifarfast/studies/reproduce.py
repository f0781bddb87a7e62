"""Run recipes with several seeds and compare their accuracies with the reported ones.

::

    OUT/<recipe>/seed-<n>/     a run folder each
    OUT/reproduction.md        the table, made anew after every run
    OUT/reproduction.json      the same as plain values, and the runs it is about

A run that has a result is not made again and one that has none is resumed, so the same command continues after a kill
at any moment.
"""

import dataclasses
import gc
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cifarfast.kernels.tuning.tables import slug

from ..ensembling import load_ensemble_recipe, make_ensemble
from ..errors import UserError
from ..recipes.recipe import Recipe
from ..report.reproduction import Attempt, Values, make_rows, reproduction_page
from ..runs.environment import collect_environment
from ..runs.run_folder import RunFolder
from ..runs.storage import disk_errors, folder_lock, write_atomic
from ..runtime.files import user_path
from ..training.train import train
from .catalogue import about_recipe, choose_recipes
from .reproduction_plan import Job, attempts_from_json, attempts_to_json, plan

PAGE, DOCUMENT = "reproduction.md", "reproduction.json"


RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results"


@dataclass
class Reproduction:
    """The result of ``reproduce``: the table's rows, and why runs failed, by the runs' names."""

    out: Path
    rows: list[Values]
    problems: dict[str, str]

    @property
    def page(self) -> Path:
        """The table as a file."""
        return self.out / PAGE


def reproduce(
    recipes: Sequence[str],
    *,
    seeds: int = 1,
    out: str | Path = "runs/reproduction",
    overrides: dict[str, Any] | None = None,
    show_progress: bool = True,
) -> Reproduction:
    """Run recipes with several seeds and keep ``OUT/reproduction.md`` up to date.

    A run that fails is noted in the table and the others are still made.

    Args:
        recipes: names of recipes, those of ensembles included, or letters of tables.
        seeds: runs of each recipe, with consecutive seeds from its own.
        out: folder of the runs and the table; what earlier calls made there stays in the table.
        overrides: settings laid over every recipe's.
        show_progress: a progress bar when stderr is a terminal.

    Raises:
        UserError: an unknown recipe, a value that is not allowed, runs with other settings in ``out``, or other
            processes at work, there or beside this one.
        Interrupted: SIGINT, SIGTERM or SIGHUP came; the state is saved.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("reproduce is one process: start it without torchrun, which is for single trainings")
    out = user_path(out)
    jobs = plan(choose_recipes(recipes), seeds=seeds, out=out, overrides=overrides or {})
    with disk_errors(f"write to {out}"):
        out.mkdir(parents=True, exist_ok=True)
    if RunFolder(out).exists:
        raise UserError(f"{out} is a run folder: choose another --out")
    with folder_lock(out):
        return _run_all(jobs, out, show_progress=show_progress)


def _run_all(jobs: Sequence[Job], out: Path, *, show_progress: bool) -> Reproduction:
    earlier = {attempt.folder.path: attempt for attempt in attempts_from_json(out / DOCUMENT, out)}
    problems: dict[str, str] = {}

    def update() -> list[Values]:
        ours = {job.folder.path: job.attempt(problems.get(job.name, "")) for job in jobs}
        return _write_table(list((earlier | ours).values()), out)

    rows = update()
    for number, job in enumerate(jobs, 1):
        if job.finished:
            print(f"[{number}/{len(jobs)}] {job.name}: finished before")
            continue
        print(f"[{number}/{len(jobs)}] {job.name}", flush=True)
        try:
            _run(job, show_progress=show_progress)
        except UserError as error:
            problems[job.name] = " ".join(str(error).split())
            print(f"cifarfast: {job.name}: {problems[job.name]}", file=sys.stderr)
        finally:  # the table of a call that is stopped says so too
            rows = update()
        _free_memory()
    return Reproduction(out, rows, problems)


def _run(job: Job, *, show_progress: bool) -> None:
    if isinstance(job.settings, Recipe):
        train(job.settings, out=job.folder.path, resume=job.folder.exists, show_progress=show_progress)
        return
    if missing := [member.name for member in job.members if not member.finished]:
        raise UserError(f"needs runs that failed: {'; '.join(missing)}")
    if job.folder.exists:  # begun and not finished: it has no checkpoints, and takes seconds
        shutil.rmtree(job.folder.path)
    recipe = dataclasses.replace(load_ensemble_recipe(job.recipe), settings=job.settings)
    first = job.members[0].settings
    assert isinstance(first, Recipe)
    make_ensemble(
        [member.folder for member in job.members],
        recipe,
        out=job.folder.path,
        data_dir=first.data_dir,
        device=first.device,
        batch_size=first.eval_batch_size,
    )


def _free_memory() -> None:
    """Give a finished run's GPU memory back, so that it neither crowds the next run nor counts as its peak."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _write_table(attempts: Sequence[Attempt], out: Path) -> list[Values]:
    attempts = sorted(attempts, key=lambda attempt: (attempt.recipe, attempt.seed))
    rows = make_rows(attempts, {attempt.recipe: _reported(attempt.recipe) for attempt in attempts})
    with disk_errors(f"write {out / PAGE}"):
        write_atomic(out / DOCUMENT, json.dumps({"rows": rows, "runs": attempts_to_json(attempts)}, indent=1) + "\n")
        write_atomic(out / PAGE, reproduction_page(rows))
    return rows


def _reported(name: str) -> Values:
    about = about_recipe(name)
    return {
        "source": about.source,
        "reported_accuracy_percent": about.reported_accuracy_percent,
        "reported": about.reported,
    }


def save_results(rows: Sequence[Values], results: Path = RESULTS) -> list[Path]:
    """Write the rows that have runs to ``<results>/<GPU, or cpu>/reproduction.json``, as the benchmarks write theirs.

    A row replaces that of the same recipe, data, machine and settings; others in the file stay.

    Raises:
        UserError: there is no such folder, as in an installed package.
    """
    if not results.is_dir():
        raise UserError(f"--save-results is for a checkout: there is no {results}")
    by_device: dict[str, list[Values]] = {}
    for row in rows:
        if row["seeds"]:
            kept = {"name": row["recipe"]} | {key: value for key, value in row.items() if key != "open"}
            by_device.setdefault(slug(row["gpu"]) if row["gpu"] else "cpu", []).append(kept)
    return [_save(results / device / DOCUMENT, ours) for device, ours in by_device.items()]


def _save(path: Path, ours: Sequence[Values]) -> Path:
    environment = collect_environment()
    environment["argv"] = [Path(argument).name for argument in environment["argv"]]  # no paths of this machine
    # $CIFARFAST_COMMIT names the commit where the files were copied without their history
    environment["commit"] = environment["commit"] or os.environ.get("CIFARFAST_COMMIT")
    ours = [row | {"commits": row["commits"] or [environment["commit"]]} for row in ours]
    replaced = [_identity(row) for row in ours]
    with disk_errors(f"write {path}"):
        path.parent.mkdir(exist_ok=True)
        before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
        rows = [*(row for row in before if _identity(row) not in replaced), *ours]
        document = {"environment": environment, "rows": sorted(rows, key=lambda row: row["name"])}
        write_atomic(path, json.dumps(document, indent=1) + "\n")
    return path


def _identity(row: Values) -> tuple[Any, ...]:
    return (row["name"], row["data"]["fingerprint"], row["machine"], row["precision"], tuple(row["changed_settings"]))
