"""The HTML report: what is in it, how long it takes, and run folders that are not as they should be."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import Rendered, copied, leave_figures_undrawn, make_run, predict, section, without
from mistakes import Fails

from cifarfast.commands import cli
from cifarfast.recipes.recipe import About
from cifarfast.report import load
from cifarfast.report.features import spread_apart
from cifarfast.report.label_errors import rank_label_errors
from cifarfast.report.page import write_report
from cifarfast.report.prediction_figures import best_f1
from cifarfast.runs.run_folder import RunFolder

SMALL = "synthetic:classes=3,train=60,test=40"
SECTIONS = ["comparison", "curves", "confusion", "classes", "pr", "roc", "hardest", "labels", "images"]
SECTIONS += ["features", "model", "settings"]


@pytest.mark.slow
def test_five_runs_of_ten_thousand_images_are_quick_and_small(report_of_five: Rendered) -> None:
    assert report_of_five.seconds < 30
    assert report_of_five.path.stat().st_size < 5e6


@pytest.mark.slow
@pytest.mark.alone
def test_the_command_takes_less_than_30_seconds_of_wall_time_on_two_cores(
    report_of_five: Rendered, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "cifarfast.report", *(str(run.path) for run in report_of_five.runs)]
    cores = sorted(os.sched_getaffinity(0))[:2]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, f"--out={tmp_path / 'report.html'}"],
        check=True,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "2", "PYTHONPATH": str(Path(__file__).parent.parent.parent)},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    assert time.perf_counter() - started < 30
    assert done.stdout.count(b"\n") == 8


def test_everything_is_there(report: Rendered) -> None:
    text, runs, classes = report.text, len(report.runs), report.classes
    for name in SECTIONS:
        assert f'href="#{name}"' in text
        assert section(text, name)
    assert section(text, "curves").count("<svg") == 4
    assert section(text, "curves").count("Overfitting from epoch 6") == runs
    assert section(text, "confusion").count("<svg") == runs
    assert section(text, "pr").count("<svg") == section(text, "roc").count("<svg") == classes + 1
    assert section(text, "hardest").count("<img") == runs * 24
    label_errors = re.search(r"confident learning: (\d+) of", section(text, "labels"))
    assert label_errors
    assert section(text, "labels").count("<img") == min(24, int(label_errors[1])) > 0
    assert section(text, "features").count("<svg") == runs
    assert f"{61_156 + 85 * classes:,} parameters" in section(text, "model")
    assert "As they are: these runs do not augment" in section(text, "images")
    assert "&lt;train&gt; &amp; more" in section(text, "settings")


def test_it_needs_nothing_else(report: Rendered) -> None:
    addresses = re.findall(r'(?:src|href)="([^"]*)"', report.text)
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "url(http" not in report.text
    assert "@import" not in report.text


@pytest.fixture
def drawn() -> None:
    """Asked for by tests of small reports whose figures matter."""


@pytest.fixture(autouse=True)
def not_drawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other figures are drawn; ``report`` is made before this."""
    if "drawn" not in request.fixturenames:
        leave_figures_undrawn(monkeypatch)


def page_of(run: RunFolder) -> str:
    return write_report([run.path]).path.read_text()


class Balance(HTMLParser):
    """Counts opened and closed elements."""

    VOID = frozenset(("meta", "link", "img"))

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def test_every_element_is_closed(report: Rendered) -> None:
    parser = Balance()
    parser.feed(report.text)
    assert parser.stack == []


@pytest.mark.usefixtures("drawn")
def test_the_same_runs_give_the_same_file(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", dataset="synthetic:classes=2,train=20,test=12")
    first = write_report([run.path], out=tmp_path / "a.html").path.read_bytes()
    assert write_report([run.path], out=tmp_path / "b.html").path.read_bytes() == first


def test_without_data_there_are_no_pictures_and_it_says_so(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (32, 32), (5 * i, 9 * i, i)).save(tmp_path / "data" / name / f"{i}.png")
    run = make_run(tmp_path / "run", dataset=f"folder:{tmp_path / 'data'}")
    assert "<img" in page_of(run)
    shutil.rmtree(tmp_path / "data")
    written = write_report([run.path])
    text = written.path.read_text()
    assert any("no pictures of samples" in note for note in written.notes)
    assert "no pictures of samples" in text
    assert "<img" not in text
    assert section(text, "curves")


def test_other_data_under_the_same_name_are_not_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", dataset=SMALL)
    run.write_result(run.read_result() | {"fingerprint": "sha256:0"})
    written = write_report([run.path])
    assert "not the data of these runs" in written.notes[0]
    assert "<img" not in written.path.read_text()


@pytest.mark.usefixtures("drawn")
def test_many_classes_and_odd_names(tmp_path: Path) -> None:
    data = "synthetic:classes=13,train=60,test=52,channels=1,size=16"
    text = page_of(make_run(tmp_path / "a<b&c", dataset=data, arch="linear"))
    assert "a&lt;b&amp;c" in text
    assert "a<b" not in text
    assert "12 hardest of 13 classes" in text


def test_a_reported_accuracy_is_compared_when_the_recipe_is_that(tmp_path: Path) -> None:
    assert "59.48" not in page_of(make_run(tmp_path / "x", dataset=SMALL, name="b01_lenet"))  # another data set


def test_what_is_reported_in_words_stands_below_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "x", dataset=SMALL, name="a1_linear")
    recipe = dataclasses.replace(run.read_config(), epochs=50)
    for about, line in (
        (About(reported="about 25"), "x: its source reports “about 25”, with other settings (epochs: 12 ≠ 50)."),
        (About(reported="about 25", reported_accuracy_percent=25.5), "* x is not quite the recipe that was reported"),
    ):
        monkeypatch.setattr(load, "load_recipe", lambda name, about=about: (recipe, about))
        comparison = section(page_of(run), "comparison")
        assert line in comparison
        assert ("its source reports" in comparison) == (about.reported_accuracy_percent is None)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Fails) -> None:
    runs = [str(make_run(tmp_path / name, dataset=SMALL, seed=i).path) for i, name in enumerate("ab")]
    assert cli.main(["report", *runs]) == 0
    out = capsys.readouterr().out
    assert "| a " in out
    assert f"report: {tmp_path / 'a' / 'report.html'}" in out
    assert (tmp_path / "a" / "report.html").exists()
    other = make_run(tmp_path / "other", dataset="synthetic:classes=4,train=60,test=40")
    assert cli.main(["report", "--table", *runs, str(other.path)]) == 0
    assert capsys.readouterr().out.count("\n") == 5
    assert "cannot write" in fails("report", *runs, f"--out={tmp_path / 'a' / 'config.toml' / 'r.html'}", out=None)


def test_runs_of_reproduce_are_named_with_their_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / name / "seed-42", dataset=SMALL) for name in ("a1_linear", "b01_lenet")]
    copy = make_run(tmp_path / "again" / "b01_lenet" / "seed-42", dataset=SMALL)
    assert cli.main(["report", *(str(run.path) for run in (*runs, copy)), f"--out={tmp_path / 'r.html'}"]) == 0
    out, page = capsys.readouterr().out, (tmp_path / "r.html").read_text()
    for name in ("a1_linear/seed-42", str(runs[1].path), str(copy.path)):
        assert f"| {name} " in out
        assert f"</span>{name}</td>" in section(page, "comparison")


def test_a_checkpoint_is_no_run(tmp_path: Path, fails: Fails) -> None:
    (checkpoint,) = make_run(tmp_path / "run", dataset=SMALL).checkpoints.iterdir()
    for command in ("report", "evaluate"):
        assert "is a checkpoint: name the run folder" in fails(command, checkpoint)


def test_what_was_held_out_counts_as_training_images(tmp_path: Path) -> None:
    text = page_of(make_run(tmp_path / "run", dataset=SMALL, val_split=0.25))
    assert "60 training and 40 test images, 3 classes" in text


def break_predictions(run: RunFolder) -> None:
    path = run.path / "predictions.npz"
    path.write_bytes(path.read_bytes()[:100])


def break_classes(run: RunFolder) -> None:
    logits, labels = run.read_predictions()
    predict(run, logits[:, :2], labels.clip(max=1))


DAMAGE: dict[Callable[[RunFolder], object], str] = {
    (lambda run: (run.path / "result.json").unlink()): "no result.json",
    (lambda run: without(run, "official")): "lacks official: was it written by another version",
    (lambda run: (run.path / "config.toml").write_text("a_setting_of_tomorrow = 1\n")): "a_setting_of_tomorrow",
    (lambda run: (run.path / "metrics.csv").write_text("epoch,train_loss\n1,abc\n")): "metrics.csv",
    break_predictions: "predictions.npz",
    break_classes: "not of one run",
    (lambda run: (run.path / "result.json").write_text("[1, 2")): "not JSON",
    (lambda run: shutil.rmtree(run.path)): "config.toml",
}


@pytest.fixture(scope="module")
def good_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("good") / "good", dataset=SMALL)


@pytest.mark.parametrize(("damage", "part"), DAMAGE.items(), ids=DAMAGE.values())
def test_a_broken_run_is_left_out_and_the_others_reported(
    damage: Callable[[RunFolder], object], part: str, good_run: RunFolder, tmp_path: Path, fails: Fails
) -> None:
    good, bad = copied(good_run, tmp_path / "good"), copied(good_run, tmp_path / "bad")
    damage(bad)
    assert part in fails("report", bad.path, good.path, out=None)
    assert (good.path / "report.html").exists()
    fails("report", bad.path, out=None)


@pytest.mark.parametrize(
    ("dataset", "part"),
    [("synthetic:classes=4,train=60,test=40", "has 4 classes"), ("synthetic:classes=3,train=60,test=41", "other data")],
)
def test_runs_that_cannot_be_compared(
    dataset: str, part: str, good_run: RunFolder, tmp_path: Path, fails: Fails
) -> None:
    first, other = copied(good_run, tmp_path / "first"), make_run(tmp_path / "other", dataset=dataset)
    assert part in fails("report", first.path, other.path, out=None)
    assert "left out" in (first.path / "report.html").read_text()


def test_a_damaged_checkpoint_or_none_costs_only_the_map(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", dataset=SMALL)
    (next(run.checkpoints.iterdir()) / "model.safetensors").write_bytes(b"0")
    written = write_report([run.path])
    assert any("checksum" in note for note in written.notes)
    shutil.rmtree(run.checkpoints)
    (run.path / "metrics.csv").unlink()
    (run.path / "timing.csv").unlink()
    text = page_of(run)
    assert 'id="features"' not in text
    assert 'id="curves"' not in text
    assert "pattern 2" in section(text, "classes")


def test_names_in_the_map_are_spread_apart() -> None:
    centres = np.array([[0.0, 0.0], [0.1, 0.02], [0.0, 0.0], [3.0, 0.0], [0.2, 2.0]])
    sizes = np.tile([0.6, 0.17], (5, 1))
    found = spread_apart(centres, sizes)
    assert np.array_equal(found[3:], centres[3:])  # nothing was near
    assert np.array_equal(found[:, 0], centres[:, 0])
    rows = np.sort(found[:3, 1])
    assert (np.diff(rows) > 0.16).all()
    assert rows[-1] - rows[0] < 0.6


def test_label_errors_are_found() -> None:
    draws = np.random.default_rng(0)
    truth = draws.integers(0, 5, 400)
    logits = draws.normal(size=(400, 5))
    logits[np.arange(400), truth] += 9
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = truth.copy()
    wrong = draws.choice(400, 12, replace=False)
    labels[wrong] = (labels[wrong] + 1) % 5
    ranked = rank_label_errors(p, labels)
    assert len(set(ranked[:12].tolist()) & set(wrong.tolist())) >= 11
    assert len(rank_label_errors(np.eye(5)[truth], truth)) == 0


def test_best_f1_by_brute_force() -> None:
    draws = np.random.default_rng(1)
    truth, score = draws.random(50) < 0.3, draws.random(50)
    found, threshold = best_f1(truth, score)

    def f1(t: float) -> float:
        hits = ((score >= t) & truth).sum()
        return 2 * hits / ((score >= t).sum() + truth.sum())

    assert found == pytest.approx(max(f1(t) for t in score))
    assert f1(threshold) == pytest.approx(found)
    json.dumps([found, threshold])
