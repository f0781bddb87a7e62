"""Scores of a run or an ensemble on its test set, or on another data set."""

import sys
from pathlib import Path
from typing import Any, Literal

import torch

from ..augment import views
from ..errors import UserError
from ..inference.classifier import Weights
from ..inference.evaluation import (
    Evaluation,
    EvaluationSettings,
    data_and_speed,
    evaluate_run,
    load_splits,
    predict_checkpoint,
    score_logits,
    score_stored,
)
from ..runs.environment import pick_device
from ..runs.run_folder import RunFolder
from ..runtime.torch_state import own_torch_state
from .folder import EnsembleRecord, combiner, member_checkpoint, read_record
from .members import is_ensemble


@own_torch_state()
def evaluate(
    run: RunFolder,
    *,
    weights: Weights = "auto",
    dataset: str | None = None,
    tta: str = "none",
    tta_shift: int = 1,
    data_dir: str | Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch_size: int = 500,
) -> Evaluation:
    """Score a run's newest checkpoint; the settings are those of the command line.

    A run without checkpoints is scored by its ``predictions.npz``, unless a setting asks for other predictions. An
    ensemble is scored by its members' checkpoints, each with the views asked for; where a member's checkpoint is gone,
    the ensemble too is scored by its ``predictions.npz``.

    Raises:
        UserError: nothing to score, data that do not fit the model, or a setting that is not allowed.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: must be at least 1")
    settings = EvaluationSettings(
        weights, dataset, tta, views(tta, shift=tta_shift), data_dir, pick_device(device), batch_size
    )
    return _evaluate_ensemble(run, settings) if is_ensemble(run) else evaluate_run(run, settings)


def _evaluate_ensemble(run: RunFolder, settings: EvaluationSettings) -> Evaluation:
    """Score the members' weights, or the stored predictions where a member is gone or was trained anew."""
    record = read_record(run)
    try:
        members = [member_checkpoint(record, entry) for entry in record.members]
    except UserError as error:
        if not settings.plain:
            raise
        print(f"cifarfast: {error}; these are the scores of its predictions.npz", file=sys.stderr)
        return score_stored(run, settings, classes=record.classes, about=_about_ensemble(record))
    combine = combiner(record)
    splits = load_splits(record.data, settings, record.classes)
    if settings.dataset is None and splits.fingerprint != record.result["fingerprint"]:
        print(f"cifarfast: {record.data.dataset} is not the data that {run.path} was made on", file=sys.stderr)
    made = [predict_checkpoint(path, checkpoint, splits.test, settings) for path, checkpoint in members]
    with torch.inference_mode():
        logits = combine(torch.stack([logits.cpu() for _, logits in made]))
    predictors = [predict for predict, _ in made]
    about = {
        "run": str(run.path),
        "source": str(run.path),
        "members": [str(path) for path, _ in members],
        "weights": {"auto": "EMA where kept, else model", "model": "model", "ema": "EMA"}[settings.weights],
        "precision": "/".join(dict.fromkeys(predict.precision for predict in predictors)),
        **_about_ensemble(record),
    }
    return Evaluation(
        score_logits(logits, splits.test, record.classes),
        about | data_and_speed(splits, record.data, settings, predictors),
    )


def _about_ensemble(record: EnsembleRecord) -> dict[str, Any]:
    kept = ("method", "weighting", "fit_on")
    about = {"ensemble": {key: record.result["ensemble"].get(key) for key in kept}}
    return about | ({"optimistic": record.optimistic} if record.optimistic else {})
