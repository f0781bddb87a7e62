"""What the files of a run folder hold: names, types and ranges, checked when they are read.

Entries that are not named here are kept as they are, so that a file of a newer version can be read. An entry that may
be missing must not be ``null`` where it is there, unless its type says so.
"""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Ge(0)]
Positive = Annotated[int, Ge(1)]
NonNegative = Annotated[float, Ge(0)]
Percent = Annotated[float, Ge(0), Le(100)]
Seed = Annotated[int, Ge(0), Lt(2**63)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Entries(BaseModel):
    """Entries of one file or table; a number is not a string, true is not 1, and nothing is NaN or infinite."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=())


# result.json


class EnsembleMember(Entries):
    """A member of an ensemble; ``weight`` is None where the ensemble is stacked."""

    name: str
    path: str
    relative_path: str
    weights_fingerprint: str | None
    weight: NonNegative | None
    arch: str
    test_accuracy_percent: Percent


class Ensemble(Entries):
    """The entry ``ensemble`` of ``result.json``."""

    method: Literal["vote", "stack"]
    weighting: Literal["equal", "search", "given"] | None
    fit_on: Literal["held-out", "test-as-reported"] | None
    held_out: str = ""
    fit_images: Count = 0
    equal_vote_accuracy_percent: Percent
    runs: list[Positive]
    classes: Annotated[list[str], Len(2)]
    data: dict[str, Any]
    members: Annotated[list[EnsembleMember], Len(2)]

    @model_validator(mode="after")
    def _fits_together(self) -> "Ensemble":
        weights = [member.weight for member in self.members]
        if sum(self.runs) != len(self.members):
            raise ValueError(f"it is of {sum(self.runs)} runs and has {len(self.members)} members")
        if self.method == "vote" and (self.weighting is None or None in weights or not sum(w or 0.0 for w in weights)):
            raise ValueError("votes need weights, at least one above 0")
        if self.fit_on is not None and not self.fit_images:
            raise ValueError("it was fitted on no images")
        return self


class Result(Entries):
    """``result.json``. Times are in seconds."""

    recipe: str
    arch: str
    dataset: str
    official: bool
    fingerprint: str
    seed: Seed
    epochs: Count
    test_accuracy_percent: Percent
    best_test_accuracy_percent: Percent
    best_epoch: Count
    train_seconds: NonNegative
    images_per_second: NonNegative
    parameters: Count
    macs: Count = 0
    train_images: Count = 0
    train_images_in_test: Count = 0
    changed_settings: list[str] = []
    test_top5_percent: Percent = 0.0
    test_loss: NonNegative = 0.0
    val_accuracy_percent: Percent = 0.0
    evaluation_seconds: NonNegative = 0.0
    peak_memory_bytes: Count = 0
    device: str = ""
    precision: str = ""
    optimistic: str = ""
    ensemble: Ensemble | None = None
    stopped_early: bool = False
    kept_epoch: Count = 0
    checksums: dict[str, Digest] = {}


# environment.json


class Gpu(Entries):
    """The GPU of an environment."""

    name: str


class Environment(Entries):
    """``environment.json``; ``earlier`` has those of the parts of a run before it was resumed elsewhere."""

    cifarfast: str | None = None
    commit: str | None = None
    cpu: str | None = None
    threads: Positive | None = None
    processes: Positive = 1
    gpu: Gpu | None = None
    packages: dict[str, str | None] = {}
    argv: list[str] = []
    data: dict[str, Any] = {}
    earlier: list[dict[str, Any]] = []


# metrics.csv and timing.csv, also in a checkpoint


class MetricsRow(Entries):
    """A row of ``metrics.csv``; what was not evaluated in that epoch is left out."""

    epoch: Annotated[float, Ge(1)]
    lr: NonNegative
    train_loss: float
    train_accuracy_percent: Percent
    val_loss: float = 0.0
    val_accuracy_percent: Percent = 0.0
    test_loss: float = 0.0
    test_accuracy_percent: Percent = 0.0


class TimingRow(Entries):
    """A row of ``timing.csv``."""

    epoch: Annotated[float, Ge(1)]
    images: NonNegative
    train_seconds: Annotated[float, Gt(0)]
    images_per_second: NonNegative
    evaluation_seconds: NonNegative


# checkpoints


class Manifest(Entries):
    """``manifest.json`` of a checkpoint: the SHA-256 of every other file, by its name."""

    sha256: dict[Annotated[str, Field(pattern=r"^(state\.json|[a-z][a-z-]{0,30}\.safetensors)$")], Digest]


class Preprocessing(Entries):
    """How images were normalised, a number a channel, in units of pixels scaled to 0…1."""

    mean: list[float]
    std: list[Annotated[float, Gt(0)]]


class NonfiniteStep(Entries):
    """A step whose loss or gradient was not finite."""

    epoch: Count
    step: Count
    action: Literal["stop", "skip", "rollback"]


MaybeInfinite = Annotated[float, Field(allow_inf_nan=True), Gt(float("-inf"))]  # and not NaN


class Progress(Entries):
    """How far a training is: see ``training.train_state``."""

    epoch: Count
    step_in_epoch: Count
    rows: list[MetricsRow]
    timing: list[TimingRow]
    epoch_seconds: NonNegative
    best_val_loss: MaybeInfinite
    best_val_epoch: Count | None = None
    best_accuracy_percent: Annotated[float, Ge(-1), Le(100)] = -1.0
    best_epoch: Count = 0
    epochs_without_gain: Count
    finished: bool
    nonfinite: list[NonfiniteStep]

    @model_validator(mode="after")
    def _a_row_an_epoch(self) -> "Progress":
        epochs = [float(number) for number in range(1, self.epoch + 1)] if self.epoch == len(self.rows) else None
        if not [row.epoch for row in self.rows] == [row.epoch for row in self.timing] == epochs:
            raise ValueError(f"it has not one row for each of {self.epoch} epochs")
        if max(self.best_epoch, self.best_val_epoch or 0) > self.epoch:
            raise ValueError(f"its best epoch is after the {self.epoch} that it has")
        return self


class Schedule(Entries):
    """The state of the learning rate."""

    factor: Annotated[float, Gt(0)]
    best_loss: MaybeInfinite
    bad_epochs: Count


class Scaler(Entries):
    """The state of the loss scale; empty where there is none."""

    scale: Annotated[float, Gt(0)] = 1.0
    steps_without_overflow: Count = 0


class State(Entries):
    """``state.json`` of a checkpoint."""

    recipe: dict[str, Any]
    progress: Progress
    running: Annotated[list[float], Len(3, 3)]
    schedule: Schedule
    scaler: Scaler
    preprocessing: Preprocessing
    classes: Annotated[list[str], Len(2)]
    image_size: Annotated[int, Ge(1), Le(4096)]
    in_channels: Literal[1, 3]
    fingerprint: str

    @model_validator(mode="after")
    def _a_number_a_channel(self) -> "State":
        if {len(self.preprocessing.mean), len(self.preprocessing.std)} != {self.in_channels}:
            raise ValueError(f"preprocessing needs {self.in_channels} numbers each of mean and std")
        return self


# reproduction.json, in the folder that the runs of a reproduction lie in


class AttemptedRun(Entries):
    """A run that a reproduction is about; ``recipe`` is also its folder's name."""

    recipe: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    seed: Seed
    problem: str
    changed_settings: list[str]


class Attempts(Entries):
    """``reproduction.json``."""

    runs: list[AttemptedRun]
