"""The Python interface: ``cifarfast.train``, ``cifarfast.load`` and ``cifarfast.Run``."""

import contextlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from .checkpoint import newest_checkpoint
from .ensembling import EnsembleRecipe, is_ensemble, load_model, read_record
from .environment import pick_device
from .errors import UserError
from .evaluate import Evaluation
from .evaluate import evaluate as evaluate_run
from .loaded import LoadedModel, attach
from .options import with_settings
from .recipe import Recipe, load_recipe
from .run import RunFolder
from .scores import check_predictions, log_softmax
from .signals import Interrupted
from .train import train as train_run


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
    """A training that was started, by its run folder; also that of an ensemble.

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
        data = result["dataset"] + ("" if result["official"] else " (not the official files)")
        return f"Run({str(self.path)!r}: {result['arch']} on {data}, {result['test_accuracy_percent']:.2f} %)"

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
        """``result.json``: ``test_accuracy_percent`` (of the last epoch), ``best_test_accuracy_percent``, and so on."""
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
        check_predictions(logits, labels, len(self.classes))
        return Predictions(logits, labels, self.classes)

    def evaluate(self, **settings: Any) -> Evaluation:
        """Score the newest weights, as ``cifarfast evaluate``: ``print(run.evaluate(tta="mirror").to_text())``.

        Args:
            settings: those of ``cifarfast.evaluate.evaluate``: weights, dataset, tta, data_dir, device, batch_size, …
        """
        return evaluate_run(self.folder, **settings)

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
        from .report.page import write_report

        paths = [self.path, *(other.path if isinstance(other, Run) else other for other in others)]
        written = write_report(paths, out=out, data_dir=data_dir)
        if written.problems:
            raise UserError("; ".join(written.problems))
        return written.path

    def load(
        self, *, weights: Literal["auto", "model", "ema"] = "auto", device: str | torch.device = "auto"
    ) -> LoadedModel:
        """The trained network: ``cifarfast.load`` of this run."""
        return load(self, weights=weights, device=device)


def train(
    recipe: Recipe | str | Path | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Train an image classifier and return its run.

    >>> import cifarfast
    >>> run = cifarfast.train("quickstart", epochs=3, lr=1e-3, out="runs/mine", quiet=True)
    >>> run.path.name, run.result["changed_settings"]
    ('mine', ['epochs: 3 ≠ 20', 'lr: 0.001 ≠ 0.002'])

    In a notebook the progress bar is a widget. When it is interrupted (Ctrl-C, or the kernel's stop button), the state
    is saved, and the same call with ``out`` and ``resume=True`` goes on from it.

    Args:
        recipe: a name that ``cifarfast recipes`` lists, a TOML file, or a ``Recipe``; without one the defaults, or with
            ``resume`` the settings of the run in ``out``.
        out: run folder, by default a new one under ``runs/``.
        resume: continue the run in ``out``, or start it where there is none.
        quiet: print nothing and show no bar.
        settings: fields of ``Recipe`` that differ from the recipe's: ``epochs=2, data_dir="data"``.

    Raises:
        UserError: wrong settings, data, folder or checkpoint.
        KeyboardInterrupt: SIGINT came; the state is saved.
        SystemExit: SIGTERM came; the state is saved.
    """
    if resume and out is None:
        raise UserError("resume needs out, the run folder to continue")
    chosen = _chosen(recipe, out if resume else None)
    if settings:
        chosen = with_settings(chosen, settings, "settings")
    silence = contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext()
    try:
        with silence:
            folder = train_run(chosen, out=out, resume=resume, show_progress=not quiet)
    except Interrupted as stop:
        again = f"stopped, the state is saved: call train(…, out={str(stop.folder)!r}, resume=True) to go on"
        if stop.exit_code == 130:
            raise KeyboardInterrupt(again) from None
        raise SystemExit(stop.exit_code) from None
    return Run(folder.path)


def _chosen(recipe: Recipe | str | Path | None, resumed: str | Path | None) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if recipe is not None:
        return load_recipe(str(recipe))[0]
    if resumed is not None and (folder := RunFolder(resumed)).exists:
        return folder.read_config()
    return Recipe()


def load(
    run: Run | RunFolder | str | Path,
    *,
    weights: Literal["auto", "model", "ema"] = "auto",
    device: str | torch.device = "auto",
) -> LoadedModel:
    """The trained network of a run, a checkpoint or an ensemble, with its preprocessing attached, in eval mode.

    >>> import cifarfast
    >>> run = cifarfast.train("quickstart", epochs=1, out="runs/loaded", quiet=True)
    >>> model = cifarfast.load(run, device="cpu")
    >>> import numpy as np
    >>> images = np.zeros((2, 32, 32, 1), np.uint8)
    >>> model.predict(images).shape
    torch.Size([2, 10])
    >>> logits = model(model.preprocess(images))
    >>> model.classes[int(logits[0].argmax())] in "0123456789"
    True

    Args:
        run: a run or its folder (the newest checkpoint that verifies), or the folder of one checkpoint.
        weights: "model", "ema", or "auto" for the averaged weights where the run keeps them.
        device: "auto" takes a GPU when there is one.

    Raises:
        UserError: there is nothing to load, it is damaged, or it was written by another version.
    """
    path = run.path if isinstance(run, Run | RunFolder) else Path(run)
    try:
        where = torch.device(pick_device("auto") if device == "auto" else device)
    except RuntimeError as error:
        raise UserError(f"device {device!r}: {str(error).splitlines()[0]}") from None
    if where.type == "cuda":
        pick_device("cuda")  # a line where there is none
    classifier = load_model(path, weights=weights, device=where.type)
    return attach(classifier.to(where))
