"""``cifarfast reproduce``: runs by seeds, its table, and going on after a kill, a stop or a failure."""

import gc
import json
import os
import signal
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from mistakes import Fails
from processes import InForeground, _context, wait_until

from cifarfast.commands import cli
from cifarfast.ensembling import EnsembleRecipe, EnsembleSettings
from cifarfast.errors import UserError
from cifarfast.recipes.recipe import About
from cifarfast.report.reproduction import Attempt, make_rows, reproduction_page, reproduction_table
from cifarfast.runs.run_folder import RunFolder
from cifarfast.runs.storage import folder_lock
from cifarfast.studies import catalogue, reproduce, reproduction_plan
from cifarfast.studies.catalogue import choose_recipes

TINY = [
    "--dataset=synthetic:classes=10,train=96,test=40,size=16",
    "--batch-size=16",
    "--epochs=2",
    "--device=cpu",
    "--quiet",
]


@pytest.fixture(autouse=True)
def quick_collection() -> Iterator[None]:
    """After each run garbage is collected; it need not be looked for in all that has been imported."""
    gc.freeze()
    yield
    gc.unfreeze()


def test_words_choose_recipes() -> None:
    assert choose_recipes(["b23_wrn_sgd", "a1_linear"]) == ["b23_wrn_sgd", "a1_linear"]
    assert choose_recipes(["c"]) == ["c1_tutorial", "c2_tutorial_bn"]
    assert choose_recipes(["C", "c1_tutorial", "quickstart"]) == ["c1_tutorial", "c2_tutorial_bn", "quickstart"]
    assert [name.partition("_")[0] for name in choose_recipes(["A"])] == [f"a{n}" for n in range(1, 8)]
    assert [name.partition("_")[0] for name in choose_recipes(["B"])] == [f"b{n:02}" for n in range(1, 34)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["b23_wrn_sdg"], "no recipe 'b23_wrn_sdg', did you mean 'b23_wrn_sgd'?"),
        (["Z"], "no recipe 'Z'"),
        ([], "no recipe was named"),
        (["a1_linear", "--seeds=0"], "--seeds 0: must be at least 1"),
        (["a1_linear", "--name=mine"], "--name"),
        (["a1_linear", "--epochs=0"], "a1_linear: epochs = 0"),
        (["a1_linear", "--epoch=3"], "did you mean '--epochs'?"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, tmp_path: Path, fails: Fails) -> None:
    assert message in fails("reproduce", *arguments, f"--out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


def files(out: Path) -> dict[Path, int]:
    """When each file of the runs was written."""
    return {path: path.stat().st_mtime_ns for path in out.glob("*/seed-*/**/*") if path.is_file()}


def row_of(out: Path, recipe: str) -> dict:
    return next(row for row in json.loads((out / "reproduction.json").read_text())["rows"] if row["recipe"] == recipe)


def test_the_table_says_what_the_runs_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["reproduce", "a1_linear", "b01_lenet", "--seeds=3", *TINY, f"--out={tmp_path}"]
    assert cli.main(arguments) == 0
    results = [RunFolder(tmp_path / "b01_lenet" / f"seed-{seed}").read_result() for seed in (42, 43, 44)]
    accuracies = [result["test_accuracy_percent"] for result in results]
    row = row_of(tmp_path, "b01_lenet")
    assert row["seeds"] == [result["seed"] for result in results] == [42, 43, 44]
    assert row["last"]["runs"] == accuracies
    assert row["last"]["mean"] == pytest.approx(sum(accuracies) / 3)
    assert row["last"]["sd"] == pytest.approx(statistics.stdev(accuracies))
    assert row["best"]["runs"] == [result["best_test_accuracy_percent"] for result in results]
    assert row["changed_settings"] == results[0]["changed_settings"]
    page = (tmp_path / "reproduction.md").read_text()
    assert f"{row['last']['mean']:.2f} ± {row['last']['sd']:.2f}" in page
    assert "epochs: 2 ≠ 20" in page
    assert "synthetic:classes=10" in page
    assert capsys.readouterr().out.count("epoch   2") == 6

    before = files(tmp_path)
    assert cli.main(arguments) == 0
    assert files(tmp_path) == before
    assert capsys.readouterr().out.count("finished before") == 6

    assert cli.main(["reproduce", "a2_mlp", *TINY, f"--out={tmp_path}"]) == 0  # what was there stays in the table
    assert row_of(tmp_path, "b01_lenet") == row
    assert row_of(tmp_path, "a2_mlp")["last"]["sd"] is None


def test_runs_with_other_settings_are_refused(tmp_path: Path, fails: Fails) -> None:
    assert cli.main(["reproduce", "a1_linear", *TINY, f"--out={tmp_path}"]) == 0
    before = files(tmp_path)
    for changed in (["--lr=0.5"], ["--lr=0.5", "--seed=7"]):  # another seed would share its mean
        error = fails("reproduce", "a2_mlp", "a1_linear", *TINY, *changed, f"--out={tmp_path}")
        assert "lr: 0.5 ≠ 0.001" in error
    assert files(tmp_path) == before


def test_a_failed_run_is_noted_and_the_others_are_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--dataset=synthetic:classes=10,train=64,test=20,size=8", "--epochs=1", "--batch-size=16", "--quiet"]
    assert cli.main(["reproduce", "a3_lenet5", "a1_linear", *small, f"--out={tmp_path}"]) == 2
    assert "1 of the runs failed" in capsys.readouterr().err
    page = (tmp_path / "reproduction.md").read_text()
    assert "| a3_lenet5 | – | – | – | 1 failed |" in page
    assert "- a3_lenet5, seed 42: " in page
    assert row_of(tmp_path, "a1_linear")["seeds"] == [42]
    assert cli.main(["reproduce", "a1_linear", *small, f"--out={tmp_path}"]) == 0  # the failure is remembered
    assert "- a3_lenet5, seed 42: " in (tmp_path / "reproduction.md").read_text()


def test_where_it_cannot_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails) -> None:
    start = ["reproduce", "a1_linear", *TINY, f"--out={tmp_path}"]
    with folder_lock(tmp_path):
        assert "another process" in fails(*start)
    (tmp_path / "config.toml").write_text("epochs = 3")
    assert "is a run folder" in fails(*start)
    (tmp_path / "config.toml").unlink()
    (tmp_path / "reproduction.json").write_text('{"runs": [3]}')
    assert "not a list of runs of ours" in fails(*start)
    (tmp_path / "reproduction.json").unlink()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "without torchrun" in fails(*start)


# the table

RESULT = {
    "recipe": "b27_wrn_200",
    "arch": "wrn16_8",
    "seed": 42,
    "parameters": 11_000_000,
    "dataset": "cifar10",
    "fingerprint": "sha256:1",
    "official": True,
    "epochs": 20,
    "best_epoch": 19,
    "train_seconds": 60.0,
    "images_per_second": 5000.0,
    "device": "cpu",
    "precision": "fp32",
    "changed_settings": ["epochs: 20 ≠ 200"],
}
SOURCE = {"source": "here", "reported_accuracy_percent": 97.07, "reported": ""}


def finished(path: Path, seed: int, percent: float, **result: object) -> Attempt:
    """A run folder that says what a finished run's does."""
    run = RunFolder(path / f"{len(list(path.iterdir()))}")
    with run.writing(resume=False):
        run.write_environment(
            {"cpu": "a CPU", "gpu": {"name": "NVIDIA H200"}, "threads": 2, "packages": {"torch": "2"}}
        )
        accuracy = {"test_accuracy_percent": percent, "best_test_accuracy_percent": percent + 1}
        labels = np.arange(100) % 2
        run.write_predictions(
            np.eye(2, dtype=np.float32)[np.where(np.arange(100) < percent, labels, 1 - labels)], labels
        )
        run.write_result(RESULT | accuracy | result)
    return Attempt("b27_wrn_200", seed, run, status="finished")


def test_a_row_is_the_mean_over_seeds_and_data_and_machines_are_kept_apart(tmp_path: Path) -> None:
    copy = {"official": False, "fingerprint": "sha256:2"}
    attempts = [
        *(finished(tmp_path, seed, percent) for seed, percent in ((42, 90.0), (43, 92.0))),
        finished(tmp_path, 44, 80.0, **copy),
        finished(tmp_path, 45, 70.0, **copy, device="cuda", precision="bf16"),
        Attempt("b27_wrn_200", 46, RunFolder(tmp_path / "x"), status="failed", problem="the GPU's memory is full"),
        Attempt("b27_wrn_200", 47, RunFolder(tmp_path / "y"), status="unfinished"),
    ]
    rows = make_rows(attempts, {"b27_wrn_200": SOURCE})
    assert [row["seeds"] for row in rows] == [[42, 43], [44], [45]]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in reproduction_table(rows).splitlines()[2:]]
    name, settings = ["b27_wrn_200", "97.07"], ["60.0", "5,000"]
    changed = "epochs: 20 ≠ 200"
    runs = "2, 1 failed, 1 unfinished"
    machine = "a CPU, 2 threads, fp32"
    assert cells == [
        [*name, "91.00 ± 1.41", "92.00 ± 1.41", runs, "cifar10, official", *settings, machine, changed],
        [*name, "80.00", "81.00", "1", "cifar10, copy", *settings, machine, changed],
        [*name, "70.00", "71.00", "1", "cifar10, copy", *settings, "NVIDIA H200, bf16", changed],
    ]
    page = reproduction_page(rows)
    assert "not those on the official data" in page
    assert "- b27_wrn_200, seed 46: the GPU's memory is full" in page
    assert "optimistic" not in page


def test_what_is_reported_on_other_data_says_nothing(tmp_path: Path) -> None:
    changed = ["dataset: 'digits' ≠ 'cifar10'"]
    rows = make_rows([finished(tmp_path, 42, 99.0, changed_settings=changed)], {"b27_wrn_200": SOURCE})
    assert rows[0]["reported_accuracy_percent"] is None
    assert "97.07" not in reproduction_table(rows)


def test_a_result_of_another_version(tmp_path: Path) -> None:
    attempt = finished(tmp_path, 42, 99.0)
    attempt.folder.write_result({"recipe": "b27_wrn_200"})
    with pytest.raises(UserError, match=r"result.json lacks arch, dataset, official, .*another version"):
        make_rows([attempt], {"b27_wrn_200": SOURCE})


# processes that are stopped


def start(arguments: list[str], log: Path, moment: Callable[[], object]) -> BaseProcess:
    """Start ``cifarfast reproduce`` in a process of its own, and wait for a moment of its life."""
    process = _context.Process(target=_reproduce, args=(arguments, log))
    process.start()
    wait_until(moment, process)
    return process


def _reproduce(arguments: list[str], log: Path) -> None:
    InForeground()()
    with log.open("w", buffering=1) as text, redirect_stdout(text), redirect_stderr(text):
        sys.exit(cli.main(["reproduce", *arguments]))


LONGER = ["a1_linear", "b01_lenet", "--seeds=2", *TINY, "--epochs=4", "--batch-size=32", "--checkpoint-seconds=0"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    assert cli.main(["reproduce", *LONGER, f"--out={out}"]) == 0
    return out


def assert_same_runs(out: Path, reference: Path) -> None:
    folders = sorted(path.relative_to(reference) for path in reference.glob("*/seed-*"))
    assert sorted(path.relative_to(out) for path in out.glob("*/seed-*")) == folders
    for folder in folders:
        assert (out / folder / "metrics.csv").read_bytes() == (reference / folder / "metrics.csv").read_bytes()
        ours, theirs = (RunFolder(root / folder).read_predictions()[0] for root in (out, reference))
        assert np.array_equal(ours, theirs)
    for recipe in ("a1_linear", "b01_lenet"):
        ours, theirs = row_of(out, recipe), row_of(reference, recipe)
        assert (ours["last"], ours["best"], ours["open"]) == (theirs["last"], theirs["best"], [])


def test_killed_in_the_middle(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [*LONGER, f"--out={out}"]
    for wait_for in ("a1_linear/seed-42/checkpoints/step-*", "a1_linear/seed-43/result.json", "b01*/*-42/metrics.csv"):
        process = start(arguments, tmp_path / "log", lambda wait_for=wait_for: list(out.glob(wait_for)))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        page = (out / "reproduction.md").read_text()
        assert "pending" in page
        assert "b01_lenet" in page
    assert cli.main(["reproduce", *arguments]) == 0
    assert_same_runs(out, uninterrupted)


def test_asked_to_stop(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [*LONGER, f"--out={out}"]
    process = start(arguments, tmp_path / "log", lambda: list(out.glob("b01_lenet/seed-42/checkpoints/step-*")))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    text = (tmp_path / "log").read_text()
    assert process.exitcode == 130, text
    assert f"-m cifarfast.reproduce {' '.join(arguments)}" in text
    assert "Traceback" not in text
    assert "no checkpoint yet" not in text  # a run that is new has nothing to resume
    page = (out / "reproduction.md").read_text()
    assert "1 unfinished" in page
    assert cli.main(["reproduce", *arguments]) == 0
    assert_same_runs(out, uninterrupted)


# ensembles


@pytest.fixture
def tiny_ensemble(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an ensemble recipe of two small networks, in place of those that come along."""
    made = EnsembleRecipe(
        name="b99_both",
        members=("a1_linear", "a2_mlp"),
        settings=EnsembleSettings(method="stack", fit_on="test-as-reported", epochs=2),
        about=About(description="two networks", source="here", reported_accuracy_percent=99.5),
    )
    for module in (catalogue, reproduction_plan, reproduce):
        monkeypatch.setattr(module, "load_ensemble_recipe", lambda name: made)
    monkeypatch.setattr(catalogue, "ensemble_recipe_names", lambda: [made.name])
    return made.name


def test_an_ensemble_runs_its_members_first(
    tiny_ensemble: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["reproduce", tiny_ensemble, "--seeds=2", *TINY, f"--out={tmp_path}"]
    assert cli.main(arguments) == 0
    assert {path.parent.name for path in tmp_path.glob("*/seed-43")} == {"a1_linear", "a2_mlp", tiny_ensemble}
    row = row_of(tmp_path, tiny_ensemble)
    assert row["seeds"] == [42, 43]
    assert "epochs: 2 ≠ 50" in row["changed_settings"]  # of its members
    lines = (tmp_path / "reproduction.md").read_text().splitlines()
    assert next(line for line in lines if tiny_ensemble in line).count("(optimistic)") == 2
    capsys.readouterr()
    (tmp_path / tiny_ensemble / "seed-43" / "result.json").unlink()  # as if killed before it was written
    before = files(tmp_path / "a1_linear")
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.count("finished before") == 5
    assert files(tmp_path / "a1_linear") == before
    again = row_of(tmp_path, tiny_ensemble)
    assert (again["seeds"], again["last"], again["open"]) == (row["seeds"], row["last"], [])


def test_an_ensemble_whose_member_failed(tiny_ensemble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(recipe: object, **_: object) -> None:
        raise UserError("no such luck")

    monkeypatch.setattr(reproduce, "train", fail)
    assert cli.main(["reproduce", tiny_ensemble, *TINY, f"--out={tmp_path}"]) == 2
    page = (tmp_path / "reproduction.md").read_text()
    assert "- a2_mlp, seed 42: no such luck" in page
    assert f"- {tiny_ensemble}, seed 42: needs runs that failed: a1_linear, seed 42; a2_mlp, seed 42" in page


# committed results


def test_results_are_merged_and_rendered_again(tmp_path: Path) -> None:
    out, results = tmp_path / "out", tmp_path / "results"
    results.mkdir()
    assert cli.main(["reproduce", "a1_linear", "a2_mlp", *TINY, f"--out={out}"]) == 0
    rows = json.loads((out / "reproduction.json").read_text())["rows"]
    for row in rows:  # what is not finished is not a result
        row["open"] = [{"seed": 43, "status": "pending", "problem": ""}]
    (path,) = reproduce.save_results(rows, results)
    assert path == results / "cpu" / "reproduction.json"
    document = json.loads(path.read_text())
    assert [row["name"] for row in document["rows"]] == ["a1_linear", "a2_mlp"]
    assert document["environment"]["packages"]["torch"]
    assert str(tmp_path) not in path.read_text()
    assert not any("open" in row for row in document["rows"])

    again = rows[1] | {"seeds": [1, 2, 3]}
    on_gpu = rows[0] | {"gpu": "NVIDIA H200", "machine": "NVIDIA H200"}
    saved = reproduce.save_results([again, on_gpu], results)
    assert saved == [path, results / "nvidia-h200" / "reproduction.json"]
    assert [row["seeds"] for row in json.loads(path.read_text())["rows"]] == [[42], [1, 2, 3]]
    table = reproduction_table(json.loads(path.read_text())["rows"])
    assert table.splitlines()[2].startswith("| a1_linear | ")
    with pytest.raises(UserError, match="checkout"):
        reproduce.save_results(rows, tmp_path / "absent")
