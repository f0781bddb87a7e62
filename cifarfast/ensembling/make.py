"""Making an ensemble: from finished runs to a run folder."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError
from ..runs.environment import collect_environment, pick_device
from ..runs.run_folder import Row, RunFolder, free_run_folder
from ..training.metrics import score
from .combine import MetaLearner, WeightedVote, search_weights
from .folder import member_entry, write_config, write_meta_learner
from .members import Member, data_settings, describe_held_out, group_by_folds, held_out_logits, read_members
from .settings import OPTIMISTIC, EnsembleRecipe, EnsembleSettings
from .stacking import fit_meta_learner

Labelled = tuple[Tensor, Tensor]  # logits [M, N, C], labels int64 [N]


@dataclass
class _Fitted:
    """The module that combines the runs, the weight of each run (None when stacked), and the images of the fit."""

    combine: nn.Module
    weights: list[float] | None
    about: dict[str, Any]
    rows: list[Row]


def make_ensemble(
    runs: Sequence[RunFolder | str | Path],
    recipe: EnsembleRecipe,
    *,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch_size: int = 500,
) -> RunFolder:
    """Combine finished runs and write the ensemble's run folder.

    Args:
        runs: of the same images and classes; with folds, all folds of each model.
        recipe: name and settings; its own ``members`` are not read.
        out: run folder, by default a new one under ``runs/``.
        data_dir: folder that holds the data sets, for held-out images; default: as in training.
        device: that predicts held-out images.
        batch_size: held-out images a batch.

    Raises:
        UserError: runs that cannot be combined, nothing to fit on, or a folder that cannot be written.
    """
    if batch_size < 1:
        raise UserError(f"--eval-batch-size {batch_size}: must be at least 1")
    members = read_members(runs)
    settings = recipe.settings
    groups = _groups(members, settings)
    if isinstance(settings.weights, tuple) and len(settings.weights) != len(groups):
        raise UserError(f"{len(settings.weights)} weights for {len(groups)} runs: give one for each")
    members = [member for group in groups for member in group]
    run = RunFolder(out) if out is not None else _free_folder(recipe, members[0])
    if run.exists:
        raise UserError(f"{run.path} holds a run: choose another --out")
    run.check(resume=False)
    started = time.perf_counter()
    where = pick_device(device)
    held_out = partial(held_out_logits, groups, data_dir=data_dir, device=where, batch_size=batch_size)
    test = _test_set(members)
    fitted = _fit(groups, settings, test, held_out)
    with torch.inference_mode():
        logits = fitted.combine(test[0])
    with run.writing(resume=False):
        write_config(run, dataclasses.replace(recipe, members=tuple(str(m.folder.path.resolve()) for m in members)))
        data = {key: members[0].result[key] for key in ("dataset", "fingerprint", "official")}
        run.write_environment(collect_environment() | {"data": data})
        if isinstance(fitted.combine, MetaLearner):
            write_meta_learner(run, fitted.combine)
            run.write_metrics(fitted.rows)
        run.write_predictions(logits.numpy(), members[0].labels)
        result = _result(recipe, members, logits, time.perf_counter() - started)
        result["parameters"] += sum(p.numel() for p in fitted.combine.parameters())
        if "macs" in result:
            result["macs"] += sum(m.weight.numel() for m in fitted.combine.modules() if isinstance(m, nn.Linear))
        result["ensemble"] = _about(run, groups, settings, fitted, test)
        run.write_result(result)
    return run


def _free_folder(recipe: EnsembleRecipe, first: Member) -> RunFolder:
    named = dataclasses.replace(first.recipe, name=recipe.name, seed=recipe.settings.seed)
    return RunFolder(free_run_folder(Path("runs"), named))


def _groups(members: list[Member], settings: EnsembleSettings) -> list[list[Member]]:
    """The runs behind each model. Folds belong together where held-out images are predicted, else each run votes."""
    if not settings.fits or settings.fit_on != "held-out":
        return [[member] for member in members]
    groups = group_by_folds(members)
    if len(groups) < 2:
        raise UserError(f"the {len(members)} runs are the folds of one model: an ensemble needs at least 2 models")
    return groups


def _test_set(members: Sequence[Member]) -> Labelled:
    logits = np.stack([member.logits for member in members])
    return torch.from_numpy(logits).float(), torch.from_numpy(members[0].labels.astype(np.int64))


def _fit(
    groups: Sequence[Sequence[Member]], settings: EnsembleSettings, test: Labelled, held_out: Callable[[], Labelled]
) -> _Fitted:
    counts = [len(group) for group in groups]
    if not settings.fits:
        given = settings.weights if isinstance(settings.weights, tuple) else [1.0] * len(groups)
        vote = WeightedVote(given)
        return _Fitted(vote, vote.weights.tolist(), {"fit_on": None}, [])
    about: dict[str, Any] = {"fit_on": settings.fit_on}
    logits, labels = test if settings.optimistic else held_out()
    if not settings.optimistic:
        about["held_out"] = describe_held_out(groups[0][0].recipe)
    about["fit_images"] = len(labels)
    if settings.method == "vote":
        weights, loss = search_weights(logits, labels)
        each = [float(weight) / count for weight, count in zip(weights, counts, strict=True) for _ in range(count)]
        return _Fitted(WeightedVote(each), each, about | {"fit_loss": loss}, [])
    rows: list[Row] = []

    @torch.inference_mode()
    def watch(learner: MetaLearner, row: Row) -> None:
        now = score(learner(test[0]), test[1])
        rows.append(row | {"test_loss": now.loss, "test_accuracy_percent": now.accuracy_percent})

    learner = fit_meta_learner(logits, labels, settings, runs=counts, after_epoch=watch)
    with torch.inference_mode():
        fit = score(learner.from_members(logits), labels)
    about |= {"fit_loss": fit.loss, "fit_accuracy_percent": fit.accuracy_percent}
    return _Fitted(learner, None, about, rows)


def _result(recipe: EnsembleRecipe, members: Sequence[Member], logits: Tensor, seconds: float) -> dict[str, Any]:
    """The contents of ``result.json``; its seconds are the sum of all members' training and of the fitting."""
    results, settings = [member.result for member in members], recipe.settings
    test = score(logits, torch.from_numpy(members[0].labels.astype(np.int64)))
    trained = [float(result.get("train_seconds", 0.0)) for result in results]
    images = sum(s * float(r.get("images_per_second", 0.0)) for s, r in zip(trained, results, strict=True))
    epochs = settings.epochs if settings.method == "stack" else 0
    result = {
        "recipe": recipe.name,
        "arch": f"{settings.method} of {len(members)}",
        **{key: results[0][key] for key in ("dataset", "official", "fingerprint")},
        "seed": settings.seed,
        "epochs": epochs,
        "test_accuracy_percent": test.accuracy_percent,
        "test_top5_percent": test.top5_percent,
        "test_loss": test.loss,
        "best_test_accuracy_percent": test.accuracy_percent,  # of the last epoch: none is picked on the test set
        "best_epoch": epochs,
        "train_seconds": sum(trained) + seconds,
        "images_per_second": images / (sum(trained) + seconds),
        "parameters": sum(int(result["parameters"]) for result in results),
    }
    if all("macs" in each for each in results):  # left out where they could not be counted
        result["macs"] = sum(int(each["macs"]) for each in results)
    return result | ({"optimistic": OPTIMISTIC} if settings.optimistic else {})


def _about(
    run: RunFolder, groups: Sequence[Sequence[Member]], settings: EnsembleSettings, fitted: _Fitted, test: Labelled
) -> dict[str, Any]:
    """The entry ``ensemble`` of ``result.json``."""
    members = [member for group in groups for member in group]
    weights: Sequence[float | None] = fitted.weights or [None] * len(members)
    classes = next((member.classes for member in members if member.classes), None)
    equal = score(WeightedVote([1.0] * len(members))(test[0]), test[1])
    return {
        "method": settings.method,
        "weighting": _weighting(settings),
        "weights": fitted.weights,
        **fitted.about,
        "equal_vote_accuracy_percent": equal.accuracy_percent,
        "runs": [len(group) for group in groups],
        "classes": list(classes or map(str, range(test[0].shape[2]))),
        "data": data_settings(members[0]),
        "members": [member_entry(run, member, weight) for member, weight in zip(members, weights, strict=True)],
    }


def _weighting(settings: EnsembleSettings) -> str | None:
    """equal, search or given; None when stacked."""
    if settings.method == "stack":
        return None
    return settings.weights if isinstance(settings.weights, str) else "given"
