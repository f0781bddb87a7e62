"""Line 6: whatever a file of a run folder holds, every command answers with one line, and nothing false is shown.

Each forgery is read by all that read its file. A reader must refuse it, in one line, or show what it shows of the run
as it was made. That no number can be changed unnoticed holds for runs that keep checksums; where the checksums are
taken out or forged too, a reader may be deceived by values that a run can have, but not by the accuracy.
"""

import itertools
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from forgeries import (
    SPECIAL_FILES,
    Forgery,
    flipped,
    json_forgeries,
    prediction_forgeries,
    table_forgeries,
    tensor_forgeries,
    text_forgeries,
    toml_forgeries,
    unseal,
)
from made_up_runs import make_run, rewrite_in_checkpoint
from mistakes import Fails, refused
from processes import run_inline

import cifarfast
from cifarfast.commands import cli
from cifarfast.ensembling import is_ensemble, load_model, make_ensemble, read_record
from cifarfast.ensembling.members import read_member
from cifarfast.ensembling.settings import EnsembleRecipe, EnsembleSettings
from cifarfast.errors import UserError
from cifarfast.recipes.recipe import About
from cifarfast.report.comparison import comparison_table
from cifarfast.report.ensembles import ensemble_text
from cifarfast.report.load import load_run
from cifarfast.report.reproduction import Attempt, read_attempt
from cifarfast.runs.checkpoint import load_checkpoint
from cifarfast.runs.run_folder import RunFolder
from cifarfast.runs.storage import remove_tree
from cifarfast.training.train import train

SMALL = "synthetic:classes=3,train=60,test=40"
TINY = ["--dataset=synthetic:classes=3,train=40,test=12", "--arch=linear", "--batch-size=8", "--lr=1e-4", "--quiet"]
Shown = Callable[[Path], Any]
# the entries of a result that every run has
NUMBERS = ("seed", "epochs", "test_accuracy_percent", "best_test_accuracy_percent", "best_epoch", "train_seconds")


def weights(path: Path) -> Any:
    model = load_model(path)
    return [(name, tensor.tolist()) for name, tensor in model.state_dict().items()], model.classes


def scores(path: Path) -> Any:
    return cifarfast.Run(path).evaluate(device="cpu").scores.to_json()


def loaded(path: Path) -> Any:
    run = load_run(path)
    return [run.result[key] for key in NUMBERS], run.scores.to_json(), run.metrics, run.timing


def member(path: Path) -> Any:
    run = read_member(RunFolder(path))
    return run.logits.tolist(), run.result["test_accuracy_percent"], run.classes


def reproduced(path: Path) -> Any:
    row = read_attempt(Attempt("b01_lenet", 0, RunFolder(path), status="finished"))
    return [row[key] for key in NUMBERS]


def table(path: Path) -> Any:
    return comparison_table([RunFolder(path)])


def resumed(path: Path) -> Any:
    before = RunFolder(path).read_predictions()[0].tolist()
    train(RunFolder(path).read_config(), out=path, resume=True, show_progress=False)
    assert RunFolder(path).read_predictions()[0].tolist() == before
    return before


READERS: dict[str, tuple[Shown, ...]] = {
    "result.json": (table, loaded, member, reproduced),
    "predictions.npz": (table, loaded, member),
    "metrics.csv": (loaded, lambda path: cifarfast.Run(path).metrics),
    "timing.csv": (loaded, lambda path: cifarfast.Run(path).timing),
    "environment.json": (reproduced, loaded),
    "config.toml": (scores, member),
    "manifest.json": (weights,),
    "state.json": (scores, resumed),
    "model.safetensors": (scores,),
    "optimizer.safetensors": (resumed,),
}


class Drill:
    """Applies forgeries to a copy of a run and counts what came of them."""

    def __init__(self, run: Path, scratch: Path, readers: dict[str, tuple[Shown, ...]] | None = None) -> None:
        self.run, self.copy = run, scratch / "copy"
        self.readers = readers or READERS
        shutil.copytree(run, self.copy)
        self.refused = self.unchanged = 0
        self.shown = {reader: reader(self.copy) for readers in self.readers.values() for reader in readers}
        self._written = {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}

    def restore(self) -> None:
        """Make the copy whole again."""
        for path, data in self._written.items():
            if (self.copy / path).read_bytes() != data:
                (self.copy / path).write_bytes(data)

    def read(self, what: str, file: str) -> None:
        """Read the copy, in which ``file`` was changed, by all its readers."""
        for reader in self.readers[Path(file).name]:
            try:
                shown = reader(self.copy)
            except UserError as error:
                self.refused += 1
                line = str(error)
            except Exception as error:
                raise AssertionError(f"{what}: {reader.__name__} ended with {error!r}") from error
            else:
                self.unchanged += 1
                line = ""
                assert shown == self.shown[reader], f"{what}: {reader.__name__} shows something else"
            assert len(line) < 2000, what


def checkpoint_file(run: Path, name: str) -> str:
    return str(next((run / "checkpoints").glob("step-*")).relative_to(run) / name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    assert run_inline([*TINY, "--epochs=3", f"--out={run}"]).code == 0
    return run


def forgeries(run: Path) -> Iterator[Forgery]:
    """Forgeries of every file of a run."""
    state, manifest = checkpoint_file(run, "state.json"), checkpoint_file(run, "manifest.json")
    free = ("argv", "backends", "packages", "native", "python", "platform", "checksums")
    for file in ("result.json", "environment.json"):
        for sealed in (False, True):
            yield from json_forgeries(file, (run / file).read_bytes(), sealed=sealed, skip=free)
    yield from json_forgeries(state, (run / state).read_bytes(), sealed=True, skip=("recipe",))
    yield from json_forgeries(manifest, (run / manifest).read_bytes(), sealed=False)
    for file in READERS:
        yield from text_forgeries(file if (run / file).exists() else checkpoint_file(run, file))
    yield from toml_forgeries()
    yield from table_forgeries("metrics.csv")
    yield from table_forgeries("timing.csv")
    yield from prediction_forgeries()
    for name in ("model.safetensors", "optimizer.safetensors"):
        yield from tensor_forgeries(checkpoint_file(run, name))


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in (1, 2))])
def test_line_6_forged_files(part: int, trained: Path, tmp_path: Path) -> None:
    """Every third forgery, beginning with ``part``: 218 each, which together are 654."""
    drill, count = Drill(trained, tmp_path), 0
    for forgery in list(forgeries(trained))[part::3]:
        forgery.apply(drill.copy)
        drill.read(forgery.name, forgery.file)
        drill.restore()
        count += 1
    assert count >= 200
    assert drill.refused > 8 * drill.unchanged


@pytest.mark.parametrize("kind", SPECIAL_FILES)
def test_line_6_pipes_devices_and_large_files(kind: str, trained: Path, tmp_path: Path) -> None:
    drill = Drill(trained, tmp_path)
    for name in READERS:
        path = drill.copy / (name if (trained / name).exists() else checkpoint_file(trained, name))
        kept = path.rename(tmp_path / "kept")
        SPECIAL_FILES[kind](path)
        drill.read(f"{name} is {kind}", name)
        remove_tree(path)
        kept.rename(path)
    assert drill.refused > drill.unchanged


@pytest.mark.parametrize("method", ["vote", "stack"])
def test_line_6_forged_ensembles(method: Literal["vote", "stack"], tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, dataset=SMALL, arch="linear", seed=i) for i, name in enumerate("ab")]
    settings = EnsembleSettings(method=method, epochs=1, fit_on="test-as-reported" if method == "stack" else "held-out")
    out = make_ensemble(runs, EnsembleRecipe("ensemble", (), settings, About()), out=tmp_path / "made", device="cpu")

    def words(path: Path) -> Any:
        if not is_ensemble(RunFolder(path)):
            load_run(path)
        record = read_record(RunFolder(path))
        return ensemble_text(record), table(path), load_run(path).scores.to_json()

    def scored(path: Path) -> Any:
        assert is_ensemble(RunFolder(path))
        return scores(path)

    drill = Drill(out.path, tmp_path, {"result.json": (words, scored), "config.toml": (words,)})
    whole = (out.path / "result.json").read_bytes()
    forged = json_forgeries("result.json", whole, sealed=True, skip=(*json.loads(whole).keys() - {"ensemble"},))
    for forgery in [*list(forged)[::4], *text_forgeries("config.toml"), *toml_forgeries()]:
        forgery.apply(drill.copy)
        drill.read(forgery.name, forgery.file)
        drill.restore()
    assert drill.refused > drill.unchanged


def test_line_6_a_changed_result_is_noticed(trained: Path, tmp_path: Path, fails: Fails) -> None:
    """Any number of result.json, and with the checksums taken out the accuracy; by every command that shows them."""
    run, other = (shutil.copytree(trained, tmp_path / name) for name in ("run", "other"))
    result = json.loads((run / "result.json").read_text())
    commands = (["report", "--table", run], ["report", run], ["ensemble", run, other, f"--out={tmp_path / 'e'}"])
    for key in ("test_accuracy_percent", "best_test_accuracy_percent", "train_seconds", "parameters"):
        (run / "result.json").write_text(json.dumps(result | {key: result[key] + 1}))
        for command in commands:
            assert "result.json was changed after the run: its checksum does not match" in fails(*command)
    (run / "result.json").write_text(
        json.dumps(result | {"test_accuracy_percent": result["test_accuracy_percent"] + 1})
    )
    unseal(run)
    for command in commands:
        assert "% of the test set are right, predictions.npz" in fails(*command)
    (run / "result.json").write_text(json.dumps(result, indent=None))  # laid out in another way, and the same
    assert cli.main(["report", "--table", str(run)]) == 0


@pytest.mark.parametrize("tied", [False, True])
def test_line_6_the_accuracy_of_equal_logits(tied: bool, tmp_path: Path) -> None:
    """Where two classes have the highest logit, either may have been taken for the prediction."""
    run = make_run(tmp_path / "run", dataset=SMALL)
    labels = np.zeros(10, np.int64)
    logits = np.zeros((10, 3), np.float32)
    logits[:, 0] = 1.0
    logits[:4, 1] = 1.0 if tied else 2.0
    run.write_predictions(logits, labels)
    result = json.loads((run.path / "result.json").read_text())
    for percent in (60.0, 80.0, 100.0):
        run.write_result(result | {"test_accuracy_percent": percent})
        if tied or percent == 60:
            assert run.read_result()["test_accuracy_percent"] == percent
        else:
            with refused("predictions.npz 60.0000 %"):
                run.read_result()


COMMANDS = {
    "result.json": ("report", "report --table", "ensemble"),
    "config.toml": ("evaluate", "train --resume", "ensemble", "report"),
    "state.json": ("evaluate", "predict", "export", "train --resume", "ensemble"),
}


@pytest.mark.parametrize("file", COMMANDS)
def test_line_6_every_command_answers_with_one_line(file: str, trained: Path, tmp_path: Path, fails: Fails) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    for path in [run / file, *run.glob(f"checkpoints/*/{file}")]:
        if path.exists():
            forged = b"a = 3" if file == "config.toml" else b'{"recipe": NaN}'
            Forgery("", str(path.relative_to(run)), lambda _, forged=forged: forged, sealed=True).apply(run)
    rest = {
        "predict": [tmp_path],
        "ensemble": [trained, f"--out={tmp_path / 'e'}"],
        "export": ["--format=torch-export"],
    }
    for command in COMMANDS[file]:
        name, *flags = command.split()
        source = [f"--out={run}"] if name == "train" else [run]
        assert file in fails(name, *flags, *source, *rest.get(name, ()), out=None)


def fuzzed(data: bytes, draws: random.Random) -> bytes:
    """The bytes with a few random changes: bits, cuts, repeats, numbers."""
    for _ in range(draws.randint(1, 3)):
        at, end = sorted(draws.randrange(len(data) + 1) for _ in range(2))
        end = min(end, at + draws.choice((1, 4, 100)))
        new = draws.choice(
            (
                b"",
                data[at:end] * 2,
                bytes(end - at),
                draws.randbytes(end - at),
                b"null",
                b"-1",
                b"1e999",
                b"[",
                b'"',
                b"9",
            )
        )
        data = data[:at] + new + data[end:]
        if data and draws.random() < 0.5:
            data = flipped(data, draws.randrange(len(data)))
    return data


def fuzz(run: Path, scratch: Path, rounds: Iterator[int]) -> int:
    """Read randomly changed files with the readers of the run folder; return how many were refused."""
    copy = Path(shutil.copytree(run, scratch / "fuzzed"))
    folder, names = RunFolder(copy), [*READERS]
    (step,) = [path for path in folder.checkpoints.iterdir() if path.name.endswith("-evaluated")]
    readers = (folder.read_result, folder.read_metrics, folder.read_timing, folder.read_environment, folder.read_config)
    result, refused = folder.read_result(), 0
    for seed in rounds:
        draws = random.Random(seed)
        name = draws.choice(names)
        path = copy / name if (copy / name).exists() else step / name
        whole, manifest, sealed = path.read_bytes(), (step / "manifest.json").read_bytes(), draws.random() < 0.5
        data = fuzzed(whole, draws)
        if path.parent == copy or name == "manifest.json":
            path.write_bytes(data)
        else:
            rewrite_in_checkpoint(step, name, data)
        if sealed:
            unseal(copy)
        for reader in (*readers, lambda: load_checkpoint(step)):
            try:
                shown = reader()
            except UserError:
                refused += 1
            except Exception as error:
                raise AssertionError(f"seed {seed}, {name}: {error!r}") from error
            else:
                accuracy = shown["test_accuracy_percent"] if reader == folder.read_result else None
                assert accuracy in (None, result["test_accuracy_percent"]), f"seed {seed}, {name}"
        path.write_bytes(whole)
        (step / "manifest.json").write_bytes(manifest)
        (copy / "result.json").write_bytes((run / "result.json").read_bytes())
    return refused


def test_line_6_fuzzed_files(trained: Path, tmp_path: Path) -> None:
    assert fuzz(trained, tmp_path, iter(range(300))) > 300


@pytest.mark.slow
def test_line_6_fuzzed_files_for_a_minute(trained: Path, tmp_path: Path) -> None:
    until = time.monotonic() + 60
    rounds = itertools.takewhile(lambda _: time.monotonic() < until, itertools.count(10_000))
    assert fuzz(trained, tmp_path, rounds) > 300
