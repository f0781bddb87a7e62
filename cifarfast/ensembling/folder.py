"""The run folder of an ensemble: what is in it beyond a run's, and the ensemble as one model.

::

    config.toml        [ensemble] with members and every setting      predictions.npz    test logits and labels
    result.json        a run's entries, and "ensemble"                environment.json   as a run's
    meta_learner.safetensors, metrics.csv                             of a stacked one: its perceptron, how it learned

``result.json["ensemble"]`` lists the members with path, fingerprint of the weights, and weight. Where the test set was
fitted, ``result.json["optimistic"]`` says so.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from ..errors import UserError
from ..inference.classifier import Classifier, ImageClassifier, Weights, classifier_of, find_checkpoint, load_classifier
from ..recipes.recipe import Recipe, validate
from ..runs.checkpoint import Checkpoint, check_tensors
from ..runs.reading import damage, read_file
from ..runs.run_folder import RunFolder
from ..runtime.torch_state import own_torch_state
from .combine import MetaLearner, WeightedVote
from .members import Member, evaluated_fingerprint, is_ensemble
from .settings import EnsembleRecipe, parse_ensemble, to_toml

META_FILE = "meta_learner.safetensors"


@dataclass(frozen=True)
class EnsembleRecord:
    """An ensemble's run folder, read.

    Attributes:
        recipe: its ``config.toml``.
        result: its ``result.json``.
        members: an entry a run: name, path, weights_fingerprint, weight, test_accuracy_percent, …
        runs: number of runs behind each model; 1 but for models with folds.
        classes: names.
        data: the recipe of the members as far as it says which data they are on.
    """

    folder: RunFolder
    recipe: EnsembleRecipe
    result: dict[str, Any]
    members: list[dict[str, Any]]
    runs: list[int]
    classes: tuple[str, ...]
    data: Recipe

    @property
    def optimistic(self) -> str:
        """The words that mark its test accuracy as optimistic where the test set was fitted, else an empty string."""
        return str(self.result.get("optimistic", ""))


def write_config(run: RunFolder, recipe: EnsembleRecipe) -> None:
    """Write an ensemble's ``config.toml``."""
    run.write("config.toml", to_toml(recipe.name, list(recipe.members), recipe.settings))


def write_meta_learner(run: RunFolder, learner: MetaLearner) -> None:
    """Write the perceptron of a stacked ensemble."""
    tensors = {name: tensor.contiguous() for name, tensor in learner.state_dict().items()}
    run.write(META_FILE, save_tensors(tensors))


def member_entry(run: RunFolder, member: Member, weight: float | None) -> dict[str, Any]:
    """A member's entry in ``result.json``."""
    path = member.folder.path.resolve()
    kept = ("recipe", "arch", "seed", "test_accuracy_percent", "parameters", "macs")
    return {
        "name": member.name,
        "path": str(path),
        "relative_path": os.path.relpath(path, run.path.resolve()),
        "weights_fingerprint": member.weights_fingerprint,
        "weight": weight,
        **{key: member.result[key] for key in kept if key in member.result},
    }


def read_record(run: RunFolder) -> EnsembleRecord:
    """Read an ensemble's ``config.toml`` and ``result.json``.

    Raises:
        UserError: a file is missing, damaged, or written by a version this one cannot read.
    """
    where, result_path = run.path / "config.toml", run.path / "result.json"
    with damage(where):
        recipe = parse_ensemble(run.read_text("config.toml"), where=str(where), name="ensemble")
    result = run.read_result()
    entry = result.get("ensemble")
    if entry is None:
        raise UserError(f"{result_path} is not that of an ensemble: was it written by another version?")
    if entry["method"] != recipe.settings.method:
        raise UserError(f"{result_path} is of the method {entry['method']}, {where} of {recipe.settings.method}")
    return EnsembleRecord(
        folder=run,
        recipe=recipe,
        result=result,
        members=entry["members"],
        runs=entry["runs"],
        classes=tuple(entry["classes"]),
        data=validate(entry["data"], str(result_path)),
    )


def combiner(record: EnsembleRecord) -> nn.Module:
    """The module that combines the members' logits ``[R, N, C]`` into the ensemble's ``[N, C]``, in eval mode.

    Raises:
        UserError: the perceptron's file is missing, damaged or of other sizes.
    """
    settings = record.recipe.settings
    if settings.method == "vote":
        return WeightedVote([float(member["weight"]) for member in record.members]).eval()
    path = record.folder.path / META_FILE
    learner = MetaLearner(record.runs, len(record.classes), settings.hidden, settings.dropout)
    try:
        data = read_file(path)
    except FileNotFoundError:
        raise UserError(f"{record.folder.path} has no {META_FILE}: the ensemble is not whole") from None
    with damage(path):
        tensors = load_tensors(data)
        check_tensors(tensors, learner.state_dict())
        learner.load_state_dict(tensors)
    return learner.eval().requires_grad_(False)


def member_folder(record: EnsembleRecord, entry: dict[str, Any]) -> RunFolder:
    """The run folder of a member: where it was, or where it is beside the ensemble when both were moved.

    Raises:
        UserError: it is in neither place.
    """
    for path in (Path(entry["path"]), record.folder.path / entry["relative_path"]):
        if (path / "config.toml").exists():
            return RunFolder(path)
    raise UserError(f"the member {entry['name']} of {record.folder.path} is not in {entry['path']} any more")


def member_checkpoint(record: EnsembleRecord, entry: dict[str, Any]) -> tuple[Path, Checkpoint]:
    """The checkpoint of a member and where it is.

    Raises:
        UserError: it is not there, or it was trained anew since the ensemble was made.
    """
    folder = member_folder(record, entry)
    where, checkpoint = find_checkpoint(folder.path)
    if evaluated_fingerprint(checkpoint) != entry["weights_fingerprint"]:
        raise UserError(
            f"{folder.path} has other weights than when the ensemble {record.folder.path} was made: make it anew"
        )
    return where, checkpoint


class EnsembleClassifier(Classifier):
    """The members and what combines them, as one model; ``recipe`` and ``precision`` are the first member's."""

    def __init__(self, members: list[ImageClassifier], combine: nn.Module, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.members, self.combine = nn.ModuleList(members), combine
        self.classes = classes
        self.image_size, self.in_channels = members[0].image_size, members[0].in_channels
        self.recipe, self.precision = members[0].recipe, members[0].precision

    def forward(self, images: Tensor) -> Tensor:
        """uint8 ``[N, image_size, image_size, in_channels]`` to logits float32 ``[N, len(classes)]``."""
        return self.combine(torch.stack([member(images) for member in self.members]))


@own_torch_state()
def load_model(
    path: str | Path, *, weights: Weights = "auto", device: str = "cpu"
) -> ImageClassifier | EnsembleClassifier:
    """The model of a run folder, a checkpoint or an ensemble, with its preprocessing, in eval mode.

    Args:
        path: of a run folder (its newest checkpoint), of a checkpoint, or of an ensemble's run folder.
        weights: "model", "ema", or "auto" for the EMA where there is one.
        device: "cpu" or "cuda".

    Raises:
        UserError: there is nothing to load at ``path``, it is damaged, or it was written by another version.
    """
    run = RunFolder(path)
    if not is_ensemble(run):
        return load_classifier(path, weights=weights, device=device)
    record = read_record(run)
    members = []
    for entry in record.members:
        where, checkpoint = member_checkpoint(record, entry)
        members.append(classifier_of(checkpoint, weights=weights, device=device, where=str(where)))
    return EnsembleClassifier(members, combiner(record).to(device), record.classes).eval()
