"""A run's folder as an object: ``cifarfast.Run``, and its ``Predictions``."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..data.official import data_name
from ..ensembling import EnsembleRecipe, is_ensemble, read_record
from ..ensembling.evaluation import evaluate
from ..errors import UserError
from ..inference.evaluation import Evaluation
from ..inference.scores import log_softmax
from ..recipes.recipe import Recipe
from ..runs.checkpoint import newest_checkpoint
from ..runs.predictions import check_predictions
from ..runs.run_folder import RunFolder
from .loaded_model import LoadedModel, load_network


@dataclass(frozen=True)
class Predictions:
    """A run's logits for its test set, and what follows from them.

    Attributes:
        logits: float32 ``[N, C]``, in the test set's order.
        labels: int64 ``[N]``.
        classes: names, in the order of the logits.
    """

    logits: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits, float64 ``[N, C]``."""
        return np.exp(log_softmax(self.logits))

    @cached_property
    def predicted(self) -> np.ndarray:
        """The class with the highest logit, int64 ``[N]``."""
        return self.logits.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the predicted class, float64 ``[N]``."""
        return self.probabilities.max(axis=1)

    @property
    def correct(self) -> np.ndarray:
        """Whether the prediction is the label, bool ``[N]``."""
        return self.predicted == self.labels

    @property
    def accuracy_percent(self) -> float:
        """Share of right predictions."""
        return 100 * float(self.correct.mean())

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Predictions({len(self):,} images, {len(self.classes)} classes, {self.accuracy_percent:.2f} % right)"


class Run:
    """The run folder of a training that was started, or of an ensemble.

    >>> import cifarfast
    >>> run = cifarfast.train("quickstart", epochs=2, out="runs/digits", quiet=True)
    >>> again = cifarfast.Run("runs/digits")
    >>> again.result["epochs"], [row["epoch"] for row in again.metrics]
    (2, [1.0, 2.0])
    >>> again.predictions.probabilities.shape
    (359, 10)
    >>> again.evaluate().scores.accuracy_percent == again.result["test_accuracy_percent"]
    True

    Args:
        path: the run folder.

    Raises:
        UserError: it is not a run folder. Whatever a file is missing or damaged for raises one when it is first read.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = RunFolder(path)
        if not self.folder.exists:
            raise UserError(f"{path} is not a run folder (no config.toml)")

    def __repr__(self) -> str:
        if not self.finished:
            return f"Run({str(self.path)!r}: not finished)"
        result = self.result
        what, accuracy = f"{result['arch']} on {data_name(result)}", result["test_accuracy_percent"]
        return f"Run({str(self.path)!r}: {what}, {accuracy:.2f} %)"

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @property
    def finished(self) -> bool:
        """Whether the training came to its end and left a result."""
        return (self.path / "result.json").exists()

    @property
    def recipe(self) -> Recipe | EnsembleRecipe:
        """Every setting, resolved; of an ensemble, its members and how they are combined."""
        return read_record(self.folder).recipe if is_ensemble(self.folder) else self.folder.read_config()

    @property
    def result(self) -> dict[str, Any]:
        """``result.json``: ``test_accuracy_percent`` of the weights kept, ``best_test_accuracy_percent``, and so on."""
        return self.folder.read_result()

    @property
    def environment(self) -> dict[str, Any]:
        """``environment.json``: versions, device, commit, data."""
        return self.folder.read_environment()

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The rows of ``metrics.csv``, one an epoch: learning rate, losses, accuracies; good for a data frame."""
        return self.folder.read_metrics()

    @property
    def timing(self) -> list[dict[str, float]]:
        """The rows of ``timing.csv``, one an epoch: images, seconds, images/s."""
        return self.folder.read_timing()

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; numbers where the run has no checkpoint to say."""
        if is_ensemble(self.folder):
            return read_record(self.folder).classes
        if found := newest_checkpoint(self.folder.checkpoints):
            return tuple(found[1].state["classes"])
        return tuple(map(str, range(self.folder.read_predictions()[0].shape[1])))

    @property
    def predictions(self) -> Predictions:
        """Logits of the last epoch's weights for the test set, with labels, probabilities and predicted classes."""
        logits, labels = self.folder.read_predictions()
        check_predictions(logits, labels, len(self.classes), where=f"{self.path}: ")
        return Predictions(logits, labels, self.classes)

    def evaluate(self, **settings: Any) -> Evaluation:
        """Score the newest weights, as ``cifarfast evaluate``: ``print(run.evaluate(tta="mirror").to_text())``.

        Args:
            settings: those of ``cifarfast evaluate``: weights, dataset, tta, data_dir, device, batch_size, …
        """
        return evaluate(self.folder, **settings)

    def report(
        self,
        *others: "Run | str | Path",
        out: str | Path | None = None,
        data_dir: str | Path | None = None,
    ) -> Path:
        """Write the HTML report on this run, compared with others, and return the file's path.

        Args:
            others: runs on the same data.
            out: the file, by default ``report.html`` in this run's folder.
            data_dir: folder that holds the data sets, for pictures; default: as in training.

        Raises:
            UserError: a run cannot be read, is not finished or is on other data.
        """
        from ..report.page import write_report

        paths = [self.path, *(other.path if isinstance(other, Run) else other for other in others)]
        written = write_report(paths, out=out, data_dir=data_dir)
        if written.problems:
            raise UserError("; ".join(written.problems))
        return written.path

    def load(
        self, *, weights: Literal["auto", "model", "ema"] = "auto", device: str | torch.device = "auto"
    ) -> LoadedModel:
        """The trained network: ``cifarfast.load`` of this run."""
        return load_network(self.path, weights=weights, device=device)
