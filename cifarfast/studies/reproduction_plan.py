"""The runs that ``cifarfast reproduce`` makes: which there are, in which order, and where each stands."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ensembling.settings import EnsembleSettings, load_ensemble_recipe, parse_ensemble
from ..errors import UserError
from ..recipes.recipe import Recipe, differences, load_recipe, with_settings
from ..report.reproduction import Attempt, Status
from ..runs.reading import check, damage, parse_json, read_file
from ..runs.run_folder import RunFolder
from ..runs.schemas import Attempts
from ..runs.storage import disk_errors
from ..training.result import changed_settings
from ..training.train import resolve
from .catalogue import is_ensemble


@dataclass(frozen=True)
class Job:
    """One run: a recipe with a seed.

    Attributes:
        settings: resolved; an ensemble's do not change with the machine.
        members: the jobs whose runs an ensemble combines.
    """

    recipe: str
    seed: int
    folder: RunFolder
    settings: Recipe | EnsembleSettings
    members: tuple["Job", ...] = ()

    @property
    def name(self) -> str:
        """The run's name in messages."""
        return f"{self.recipe}, seed {self.seed}"

    @property
    def finished(self) -> bool:
        """Whether its folder has a result."""
        return has_result(self.folder)

    @property
    def changed(self) -> tuple[str, ...]:
        """Settings that differ from the recipe's; an ensemble has its members' differences."""
        if isinstance(self.settings, Recipe):
            return tuple(changed_settings(self.settings))
        return tuple(dict.fromkeys(line for member in self.members for line in member.changed))

    def attempt(self, problem: str = "") -> Attempt:
        """The run's row of the table as of now; ``problem`` says why its last attempt failed."""
        return make_attempt(self.recipe, self.seed, self.folder, self.changed, problem)

    def check_folder(self) -> None:
        """Raise a UserError where the folder holds a run with other settings."""
        if not self.folder.exists:
            return
        if isinstance(self.settings, Recipe):
            lines = differences(self.settings, self.folder.read_config())
        else:
            path = self.folder.path / "config.toml"
            with damage(path):
                text = self.folder.read_text("config.toml")
                theirs = dataclasses.asdict(parse_ensemble(text, where=str(path), name="custom").settings)
            ours = dataclasses.asdict(self.settings)
            lines = [f"{key}: {ours[key]!r} ≠ {theirs[key]!r}" for key in ours if ours[key] != theirs[key]]
        if lines:
            raise UserError(
                f"{self.folder.path} was started with other settings: {'; '.join(lines)}; choose another --out"
            )


def has_result(folder: RunFolder) -> bool:
    """Whether a run folder has a result."""
    with disk_errors(f"read {folder.path}"):
        return (folder.path / "result.json").exists()


def make_attempt(recipe: str, seed: int, folder: RunFolder, changed: tuple[str, ...], problem: str) -> Attempt:
    """The table's row about a run whose folder is ``folder``, there or not yet."""
    status: Status = "unfinished" if folder.exists else "pending"
    if has_result(folder):
        status, problem = "finished", ""
    elif problem:
        status = "failed"
    return Attempt(recipe, seed, folder, changed, status, problem)


def plan(names: Sequence[str], *, seeds: int, out: Path, overrides: dict[str, Any]) -> list[Job]:
    """Every run that ``names`` and ``seeds`` ask for, each once, the members of an ensemble before it.

    Args:
        names: recipes, those of ensembles included.
        seeds: runs of each: its own seed (or that of ``overrides``), the next, and so on.
        out: folder that the run folders lie under.
        overrides: settings laid over every recipe's.

    Raises:
        UserError: a value that is not allowed, or a folder that holds a run with other settings.
    """
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: must be at least 1")
    if "name" in overrides:
        raise UserError("--name: a recipe that is reproduced keeps its name")
    jobs: dict[Path, Job] = {}

    def add(job: Job) -> Job:
        return jobs.setdefault(job.folder.path, job)

    for name in names:
        for offset in range(seeds):
            if not is_ensemble(name):
                add(_single_job(name, offset, out, overrides))
                continue
            recipe = load_ensemble_recipe(name)
            members = tuple(add(_single_job(member, offset, out, overrides)) for member in recipe.members)
            seed = overrides.get("seed", recipe.settings.seed) + offset
            settings = dataclasses.replace(recipe.settings, seed=seed)
            add(Job(name, seed, _folder(out, name, seed), settings, members))
    for job in jobs.values():
        job.check_folder()
        _check_siblings(job, out)
    return list(jobs.values())


def _single_job(name: str, offset: int, out: Path, overrides: dict[str, Any]) -> Job:
    recipe = with_settings(load_recipe(name)[0], overrides, name)
    settings = resolve(dataclasses.replace(recipe, seed=recipe.seed + offset))
    return Job(name, settings.seed, _folder(out, name, settings.seed), settings)


def _folder(out: Path, recipe: str, seed: int) -> RunFolder:
    return RunFolder(out / recipe / f"seed-{seed}")


def _check_siblings(job: Job, out: Path) -> None:
    """Raise a UserError where a run of the same recipe with another seed has other settings: they share a mean."""
    if not isinstance(job.settings, Recipe):
        return
    for path in sorted((out / job.recipe).glob("seed-*")):
        folder = RunFolder(path)
        if path == job.folder.path or not folder.exists:
            continue
        theirs = dataclasses.replace(folder.read_config(), seed=job.seed)
        if lines := differences(job.settings, theirs):
            raise UserError(f"{path} has other settings: {'; '.join(lines)}; choose another --out")


def attempts_to_json(attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
    """The attempts as plain values, for ``attempts_from_json``."""
    return [
        {"recipe": each.recipe, "seed": each.seed, "problem": each.problem, "changed_settings": list(each.changed)}
        for each in attempts
    ]


def attempts_from_json(document: Path, out: Path) -> list[Attempt]:
    """The attempts that an earlier call wrote into ``document``, with the present status of their folders.

    Raises:
        UserError: the file is not one that this program wrote.
    """
    with disk_errors(f"read {document}"):
        if not document.exists():
            return []
        values = parse_json(read_file(document), document)
    try:
        check(Attempts, values, document)
    except UserError:
        raise UserError(f"{document} is not a list of runs of ours: remove it, or choose another --out") from None
    return [
        make_attempt(
            run["recipe"],
            run["seed"],
            _folder(out, run["recipe"], run["seed"]),
            tuple(run["changed_settings"]),
            run["problem"],
        )
        for run in values["runs"]
    ]
