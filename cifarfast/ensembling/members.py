"""The runs of an ensemble: reading them, checking that they belong together, and their logits for held-out images."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import Dataset, Splits
from ..data.base import hold_out_fold, hold_out_validation
from ..errors import UserError
from ..inference.classifier import classifier_of, find_checkpoint, logits_of
from ..recipes.build import load_recipe_data
from ..recipes.recipe import Recipe, differences
from ..runs.checkpoint import Checkpoint
from ..runs.run_folder import RunFolder
from .settings import is_ensemble_config


@dataclass(frozen=True, eq=False)
class Member:
    """A finished run that votes.

    ``classes`` and ``weights_fingerprint`` are None where the run has no checkpoint.
    """

    folder: RunFolder
    recipe: Recipe
    result: dict[str, Any]
    logits: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...] | None
    weights_fingerprint: str | None

    @property
    def name(self) -> str:
        """What messages and tables call it."""
        return self.folder.name


def fold_of(recipe: Recipe) -> tuple[int, int]:
    """(folds, fold) of a run that holds out one part of several; folds is 0 where it does not."""
    return recipe.folds, recipe.fold


def is_ensemble(run: RunFolder) -> bool:
    """Whether the folder is that of an ensemble."""
    try:
        return is_ensemble_config(run.read_text("config.toml"))
    except UserError:
        return False


def read_member(run: RunFolder) -> Member:
    """Read one run.

    Raises:
        UserError: it is not finished, damaged, an ensemble itself, or written by a version this one cannot read.
    """
    if is_ensemble(run):
        raise UserError(f"{run.path} is an ensemble: name its members instead")
    recipe, result = run.read_finished()
    logits, labels = run.read_predictions()
    classes = fingerprint = None
    if any(run.checkpoints.glob("step-*")):
        where, checkpoint = find_checkpoint(run.path)
        classes = tuple(map(str, checkpoint.state["classes"]))
        fingerprint = evaluated_fingerprint(checkpoint)
        if len(classes) != logits.shape[1]:
            raise UserError(
                f"{run.path}: predictions.npz has {logits.shape[1]} classes, {where.name} {len(classes)}: "
                "its files are not of one run"
            )
    return Member(run, recipe, result, logits, labels, classes, fingerprint)


def evaluated_fingerprint(checkpoint: Checkpoint) -> str:
    """``"sha256:<hex>"`` of the weights that are evaluated (the EMA if any): names, types, shapes, values."""
    tensors = checkpoint.tensors.get("ema", checkpoint.tensors["model"])
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def read_members(runs: Sequence[RunFolder | str | Path]) -> list[Member]:
    """Read the runs of an ensemble and check that they are of the same images and classes, in the same order.

    Raises:
        UserError: fewer than two, one that cannot be used, or two that do not belong together; names the run.
    """
    folders = [run if isinstance(run, RunFolder) else RunFolder(run) for run in runs]
    if len(folders) < 2:
        raise UserError(f"an ensemble needs at least 2 runs, not {len(folders)}")
    seen: set[Path] = set()
    for folder in folders:
        if folder.path.resolve() in seen:
            raise UserError(f"{folder.path} is named twice")
        seen.add(folder.path.resolve())
    members = [read_member(folder) for folder in folders]
    for member in members[1:]:
        _check_alike(members[0], member)
    named = [member for member in members if member.classes is not None]
    for member in named[1:]:
        if member.classes != named[0].classes:
            raise UserError(
                f"{member.folder.path} has the classes {_few(member.classes)}, {named[0].folder.path} has "
                f"{_few(named[0].classes)}"
            )
    return members


def _check_alike(first: Member, member: Member) -> None:
    ours, theirs = member.folder.path, first.folder.path
    if member.logits.shape[1] != first.logits.shape[1]:
        raise UserError(f"{ours} has {member.logits.shape[1]} classes, {theirs} has {first.logits.shape[1]}")
    if member.result["fingerprint"] != first.result["fingerprint"]:
        raise UserError(
            f"{ours} is on other data ({member.result['dataset']}, {member.result['fingerprint'][:15]}…) than {theirs} "
            f"({first.result['dataset']}, {first.result['fingerprint'][:15]}…)"
        )
    if not np.array_equal(member.labels, first.labels):
        raise UserError(f"{ours} has its test images in another order than {theirs}: the labels differ")


def _few(names: Sequence[str] | None) -> str:
    names = names or ()
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


# held-out images


def group_by_folds(members: Sequence[Member]) -> list[list[Member]]:
    """The runs behind each model: alone, or all folds of one model, whose settings differ in the fold only.

    Raises:
        UserError: a model lacks a fold or has one twice.
    """
    groups: list[list[Member]] = []
    for member in members:
        folds, _ = fold_of(member.recipe)
        own = next((group for group in groups if folds and _same_but_fold(group[0].recipe, member.recipe)), None)
        if own is None:
            groups.append([member])
        else:
            own.append(member)
    for group in groups:
        folds, _ = fold_of(group[0].recipe)
        there = sorted(fold_of(member.recipe)[1] for member in group)
        if folds and there != list(range(folds)):
            raise UserError(
                f"{group[0].folder.path} is one of {folds} folds, and of its model the folds {there} are named: "
                f"all of 0…{folds - 1} are needed, each once"
            )
        group.sort(key=lambda member: fold_of(member.recipe)[1])
    return groups


def _same_but_fold(ours: Recipe, theirs: Recipe) -> bool:
    ignored = ("fold:", "name:", "device:", "precision:", "backend:")
    return all(line.startswith(ignored) for line in differences(ours, theirs))


def describe_held_out(recipe: Recipe) -> str:
    """Which training images a run held out, in words."""
    folds, _ = fold_of(recipe)
    if folds:
        return f"{folds} folds of seed {recipe.held_out_seed}"
    return (
        f"val_split {recipe.val_split:g} of seed {recipe.held_out_seed}" if recipe.val_split else "the validation part"
    )


def held_out_logits(
    groups: Sequence[Sequence[Member]], *, data_dir: str | Path | None, device: str, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Logits of each model for training images that it was not trained on, ``[M, N, C]``, and their labels ``[N]``.

    The images are the validation part, or for models with folds the whole training part: each fold's images through the
    run that held them out.

    Raises:
        UserError: a run held out nothing or other images than the first, has no checkpoint, or the data are not there.
    """
    _check_same_images(groups)
    splits = _WholeData(data_dir)
    labels, logits = None, []
    for group in groups:
        parts = [splits.held_out(member) for member in group]
        own = torch.cat([part.labels for part in parts])
        labels = own if labels is None else labels
        if not torch.equal(labels, own):
            raise UserError(f"{group[0].folder.path} holds out other images than {groups[0][0].folder.path}")
        logits.append(
            torch.cat([_predict(run, part, device, batch_size) for run, part in zip(group, parts, strict=True)])
        )
    assert labels is not None
    return torch.stack(logits), labels


def _check_same_images(groups: Sequence[Sequence[Member]]) -> None:
    first = groups[0][0]
    for member in (group[0] for group in groups[1:]):
        ours, theirs = member.recipe, first.recipe
        if _division(ours) != _division(theirs):
            raise UserError(
                f"{member.folder.path} holds out other images ({_held_out_words(ours)}) than {first.folder.path} "
                f"({_held_out_words(theirs)}): train all with the same --val-split and --split-seed"
            )


def _division(recipe: Recipe) -> tuple[int, float, int | None, bool]:
    """The settings that decide which training images a run holds out: folds, val_split, the seed if it is used, and
    whether duplicates were left out before.
    """
    folds, _ = fold_of(recipe)
    seed = recipe.held_out_seed if folds or recipe.val_split else None
    return folds, recipe.val_split, seed, recipe.drop_train_duplicates


def _held_out_words(recipe: Recipe) -> str:
    return describe_held_out(recipe) if fold_of(recipe)[0] or recipe.val_split else "none"


class _WholeData:
    """Loads each data set once and divides it as the runs did."""

    def __init__(self, data_dir: str | Path | None) -> None:
        self._data_dir = data_dir
        self._loaded: dict[tuple[str, int | None, str, bool], Splits] = {}

    def held_out(self, member: Member) -> Dataset:
        """The images that a run held out of its training."""
        recipe = member.recipe
        key = (recipe.dataset, recipe.image_size, recipe.background, recipe.drop_train_duplicates)
        if key not in self._loaded:
            self._loaded[key] = load_recipe_data(recipe, data_dir=self._data_dir, whole=True)
        splits = self._loaded[key]
        folds, fold = fold_of(recipe)
        if folds:
            splits = hold_out_fold(splits, folds, fold, recipe.held_out_seed)
        else:
            splits = hold_out_validation(splits, recipe.val_split, recipe.held_out_seed)
        if splits.fingerprint != member.result["fingerprint"]:
            raise UserError(f"the {recipe.dataset} found is not the data that {member.folder.path} was trained on")
        if splits.val is None:
            raise UserError(
                f"{member.folder.path} held no training images out to fit on: train the members with --val-split, "
                "or give --weights, or take --fit-on test-as-reported"
            )
        return splits.val


def _predict(member: Member, data: Dataset, device: str, batch_size: int) -> Tensor:
    if member.classes is None:
        raise UserError(f"{member.folder.path} has no checkpoint: what it makes of held-out images cannot be computed")
    where, checkpoint = find_checkpoint(member.folder.path)
    classifier = classifier_of(checkpoint, device=device, where=str(where))
    return logits_of(classifier, data.images.to(device), batch_size).cpu()


def data_settings(member: Member) -> dict[str, Any]:
    """The settings that say which data a run is on, as fields of ``Recipe``."""
    names = (
        *("dataset", "data_dir", "image_size", "background", "drop_train_duplicates"),
        *("val_split", "seed", "split_seed"),
    )
    values = dataclasses.asdict(member.recipe)
    return {name: values[name] for name in names if values[name] is not None}
