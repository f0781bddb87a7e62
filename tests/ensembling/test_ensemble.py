"""``cifarfast ensemble``: votes and stacking against plain implementations, real runs end to end, bad input."""

import dataclasses
import itertools
import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_runs import copied, leave_figures_undrawn, make_run, predict, rewrite_in_checkpoint, section, without
from mistakes import Fails, refused
from processes import run_inline
from torch import Tensor, nn
from torch.nn import functional as F

from cifarfast.commands import cli
from cifarfast.commands.ensemble import main, parse_weights
from cifarfast.data import load_dataset
from cifarfast.data.base import hold_out_fold
from cifarfast.ensembling import (
    OPTIMISTIC,
    MetaLearner,
    WeightedVote,
    ensemble_recipe_names,
    load_ensemble_recipe,
    load_model,
    read_record,
    search_weights,
)
from cifarfast.ensembling import members as members_module
from cifarfast.ensembling.ensemble import ensemble
from cifarfast.ensembling.evaluation import evaluate
from cifarfast.ensembling.settings import EnsembleSettings
from cifarfast.ensembling.stacking import fit_meta_learner
from cifarfast.errors import UserError
from cifarfast.random import Purpose, permutation, step_seeds
from cifarfast.recipes.recipe import Recipe, recipe_names
from cifarfast.runs.run_folder import RunFolder

DATA = "synthetic:classes=4,train=240,test=80,size=18"
SMALL = "synthetic:classes=3,train=60,test=40"


# the arithmetic, on made-up logits


def logits_of(probabilities: np.ndarray) -> Tensor:
    return torch.from_numpy(np.log(probabilities))


def made_up(members: int, count: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of members that are right more often than not, each in its own way, and the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    logits = torch.randn(members, count, classes, generator=generator)
    for member in range(members):
        logits[member, torch.arange(count), labels] += 0.6 * (member + 1)
    return logits, labels


def test_a_vote_is_the_logarithm_of_the_weighted_mean_of_probabilities() -> None:
    logits, _ = made_up(3, 20, 5)
    weights = [0.25, 0.25, 0.5]
    p = np.exp(logits.double().numpy())
    p /= p.sum(axis=2, keepdims=True)
    expected = sum(w * p[m] for m, w in enumerate(weights))
    assert np.allclose(WeightedVote(weights)(logits).exp(), expected, atol=1e-6)
    assert torch.equal(WeightedVote([1, 1, 2])(logits), WeightedVote(weights)(logits))
    assert torch.allclose(WeightedVote([0, 0, 7])(logits), logits[2].log_softmax(1), atol=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.6, 0.75, 0.95, 1.0])
def test_the_weights_of_two_complementary_members_have_a_closed_form(share: float) -> None:
    # on a share f of the images the first member gives the label 0.9 and the second 0.1, on the others the reverse:
    # d/dw [−f ln(w h + (1−w) l) − (1−f) ln(w l + (1−w) h)] = 0 at w = (f h − (1−f) l) / (h − l)
    high, low, count = 0.9, 0.1, 1000
    first = np.arange(count) < share * count
    p = np.stack([np.where(first, high, low), np.where(first, low, high)])
    logits = logits_of(np.stack([p, 1 - p], axis=2))
    weights, loss = search_weights(logits, torch.zeros(count, dtype=torch.int64))
    expected = min(max((share * high - (1 - share) * low) / (high - low), 0.0), 1.0)
    assert weights == pytest.approx([expected, 1 - expected], abs=1e-4)
    assert loss == pytest.approx(-np.log(weights @ p).mean(), rel=1e-9)


def test_searched_weights_are_at_least_as_good_as_any_on_a_grid() -> None:
    logits, labels = made_up(3, 400, 4)
    weights, loss = search_weights(logits, labels)
    own = logits.double().softmax(2)[:, torch.arange(400), labels].numpy()
    grid = [(a / 50, b / 50, (50 - a - b) / 50) for a in range(51) for b in range(51 - a)]
    losses = [float(-np.log(np.array(each) @ own).mean()) for each in grid]
    assert loss <= min(losses) + 1e-9
    assert weights == pytest.approx(grid[int(np.argmin(losses))], abs=0.03)
    assert weights.sum() == pytest.approx(1)


def test_a_member_that_guesses_gets_no_weight() -> None:
    logits, labels = made_up(1, 500, 5)
    good = logits[0] * 1.0
    good[torch.arange(500), labels] += 6
    guess = torch.randn(500, 5, generator=torch.Generator().manual_seed(1)) * 4
    weights, _ = search_weights(torch.stack([guess, good]), labels)
    assert weights[1] > 0.97


def plain_stack(logits: Tensor, labels: Tensor, settings: EnsembleSettings) -> nn.Sequential:
    """Stacking as one would write it down, for settings without dropout."""
    x = torch.cat(list(logits), dim=1)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    torch.manual_seed(settings.seed)
    sizes = [x.shape[1], *settings.hidden, logits.shape[2]]
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    net = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    optimizer = torch.optim.Adam(net.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    steps = -(-len(labels) // settings.batch_size) * settings.epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(settings.epochs):
        order = permutation(len(labels), settings.seed, Purpose.SHUFFLE, epoch)
        for batch in order.split(settings.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(net(x[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return net


def test_stacking_is_a_plain_training_of_a_perceptron() -> None:
    logits, labels = made_up(3, 300, 4)
    settings = EnsembleSettings(method="stack", hidden=(16, 8), epochs=12, batch_size=32, dropout=0.0, lr=1e-2)
    ours = fit_meta_learner(logits, labels, settings, runs=[1, 1, 1])
    x = torch.cat(list(logits), dim=1)
    theirs = plain_stack(logits, labels, settings)((x - x.mean(0)) / x.std(0, correction=0))
    assert torch.allclose(ours(logits), theirs, atol=1e-4)
    assert (ours(logits).argmax(1) == labels).float().mean() > 0.6


def complementary(count: int = 1500) -> tuple[Tensor, Tensor]:
    """Members that know half of the classes each and are sure of nonsense for the others."""
    labels = torch.arange(count) % 10
    logits = torch.randn(2, count, 10, generator=torch.Generator().manual_seed(0))
    knows = [labels < 5, labels >= 5]
    for member, known in enumerate(knows):
        wrong = (labels + 5 - member) % 5 + 5 * member  # one of the classes that it knows
        logits[member, torch.arange(count), torch.where(known, labels, wrong)] += 6
    return logits, labels


def test_stacking_learns_what_no_weights_can_say() -> None:
    logits, labels = complementary()
    swapped = labels.clone()
    swapped[labels == 0], swapped[labels == 1] = 1, 0
    logits = torch.stack([*logits, 8.0 * F.one_hot(swapped, 10)])  # right but for two classes it takes for each other
    fit, test = slice(0, 1000), slice(1000, 1500)
    settings = EnsembleSettings(method="stack", lr=3e-3)
    learner = fit_meta_learner(logits[:, fit], labels[fit], settings, runs=[1, 1, 1])
    weights, _ = search_weights(logits[:, fit], labels[fit])
    voted = WeightedVote(weights.tolist())(logits[:, test])
    accuracy = [(out.argmax(1) == labels[test]).float().mean().item() for out in (learner(logits[:, test]), voted)]
    assert accuracy[0] > 0.98
    assert accuracy[1] < 0.9


def test_fitting_twice_gives_the_same_bits_and_leaves_torchs_generator_alone() -> None:
    logits, labels = made_up(2, 200, 3)
    settings = EnsembleSettings(method="stack", epochs=3, batch_size=32)
    torch.manual_seed(5)
    expected = torch.rand(3)
    states = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        states.append(fit_meta_learner(logits, labels, settings, runs=[1, 1]).state_dict())
        if seed == 5:
            assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))
    other = fit_meta_learner(logits, labels, dataclasses.replace(settings, seed=43), runs=[1, 1])
    assert not torch.equal(other.state_dict()["layers.0.weight"], states[0]["layers.0.weight"])
    assert len(step_seeds(42, 0, 21)) == 21


def test_a_member_of_several_runs_counts_with_the_mean_of_their_logits() -> None:
    learner = MetaLearner([2, 1], 3, (4, 4), 0.0).eval()
    logits = torch.randn(3, 6, 3)
    by_hand = torch.stack([(logits[0] + logits[1]) / 2, logits[2]])
    assert torch.allclose(learner(logits), learner.from_members(by_hand), atol=1e-6)


# real runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    folder = tmp_path_factory.mktemp("members")
    common = [f"--dataset={DATA}", "--val-split=0.25", "--batch-size=16", "--epochs=2", "--quiet"]
    made = []
    for name, flags in {
        "linear": ["--arch=linear"],
        "cnn": ["--arch=cnn_tutorial", "--optimizer=adam", "--ema-decay=0.5"],
        "small": ["--arch=lenet", "--optimizer=adam"],
    }.items():
        run_inline([*common, *flags, f"--out={folder / name}"], code=0)
        made.append(RunFolder(folder / name))
    return made


def paths(runs: list[RunFolder]) -> list[str]:
    return [str(run.path) for run in runs]


def held_out(runs: list[RunFolder]) -> tuple[Tensor, Tensor]:
    """What the runs make of the images they held out, computed by the way of ``load_model``."""
    recipe = runs[0].read_config()
    val = load_dataset(recipe.dataset, val_split=recipe.val_split, seed=recipe.seed).val
    assert val is not None
    with torch.inference_mode():
        return torch.stack([load_model(run.path)(val.images) for run in runs]), val.labels


def stored_logits(runs: list[RunFolder]) -> Tensor:
    return torch.from_numpy(np.stack([run.read_predictions()[0] for run in runs]))


@pytest.mark.parametrize(("given", "weights"), [("equal", [1.0, 1.0, 1.0]), ([0.25, 0.25, 0.5], [0.25, 0.25, 0.5])])
def test_given_and_equal_weights(given: Any, weights: list[float], runs: list[RunFolder], tmp_path: Path) -> None:
    made = ensemble(runs, weights=given, out=tmp_path / "e")
    logits, labels = made.read_predictions()
    assert np.array_equal(labels, runs[0].read_predictions()[1])
    assert np.allclose(logits, WeightedVote(weights)(stored_logits(runs)), atol=1e-6)
    result = made.read_result()
    assert result["test_accuracy_percent"] == 100 * (logits.argmax(1) == labels).mean()
    assert result["ensemble"]["fit_on"] is None
    assert "optimistic" not in result
    members = result["ensemble"]["members"]
    assert [m["weight"] for m in members] == pytest.approx(np.array(weights) / sum(weights))
    assert [m["path"] for m in members] == [str(run.path.resolve()) for run in runs]
    assert len({m["weights_fingerprint"] for m in members}) == 3
    assert result["parameters"] == sum(run.read_result()["parameters"] for run in runs)


def test_searched_weights_are_fitted_on_the_validation_part(runs: list[RunFolder], tmp_path: Path) -> None:
    made = ensemble(runs, weights="search", out=tmp_path / "e").read_result()["ensemble"]
    weights, loss = search_weights(*held_out(runs))
    assert made["weights"] == pytest.approx(weights.tolist(), abs=1e-6)
    assert made["fit_loss"] == pytest.approx(loss, rel=1e-6)
    assert (made["fit_images"], made["held_out"]) == (60, "val_split 0.25 of seed 42")


def test_a_stacked_ensemble_from_the_command_line(
    runs: list[RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["ensemble", *paths(runs), "--method=stack", "--hidden", "12", "6", "--epochs=3", "--batch-size=20"]
    assert cli.main([*arguments, "--dropout=0.1", f"--out={tmp_path / 'a'}"]) == 0
    text = capsys.readouterr().out
    for part in ("hidden layers of 12 and 6", "60 training images that no member had seen", "linear", "run folder:"):
        assert part in text
    assert "optimistic" not in text
    made = RunFolder(tmp_path / "a")
    settings = EnsembleSettings(method="stack", hidden=(12, 6), epochs=3, batch_size=20, dropout=0.1)
    learner = fit_meta_learner(*held_out(runs), settings, runs=[1, 1, 1])
    assert np.allclose(made.read_predictions()[0], learner(stored_logits(runs)), atol=1e-5)
    rows = made.read_metrics()
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["test_accuracy_percent"] == made.read_result()["test_accuracy_percent"]
    assert tomllib.loads((made.path / "config.toml").read_text())["ensemble"]["hidden"] == [12, 6]
    assert (made.path / "meta_learner.safetensors").exists()


FITTED: list[dict[str, Any]] = [{"method": "vote", "weights": "search"}, {"method": "stack"}]


@pytest.mark.parametrize("settings", FITTED, ids=lambda settings: settings["method"])
def test_making_it_twice_gives_the_same_bits(settings: dict[str, Any], runs: list[RunFolder], tmp_path: Path) -> None:
    one, two = (ensemble(runs, out=tmp_path / str(i), **settings) for i in range(2))
    for file in ("predictions.npz", "meta_learner.safetensors", "metrics.csv"):
        if (one.path / file).exists():
            assert (one.path / file).read_bytes() == (two.path / file).read_bytes()


@pytest.mark.parametrize("flags", [["--method=stack"], ["--weights", "search"]])
def test_fitted_on_the_test_set_it_is_labelled_everywhere(
    flags: list[str],
    runs: list[RunFolder],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leave_figures_undrawn(monkeypatch)
    out, report = tmp_path / "fitted", tmp_path / "report.html"
    assert main([*paths(runs), *flags, "--fit-on=test-as-reported", f"--out={out}"]) == 0
    assert OPTIMISTIC in capsys.readouterr().out
    result = RunFolder(out).read_result()
    assert result["optimistic"] == OPTIMISTIC
    assert (result["ensemble"]["fit_on"], result["ensemble"]["fit_images"]) == ("test-as-reported", 80)
    assert cli.main(["evaluate", str(out)]) == 0
    assert OPTIMISTIC in capsys.readouterr().out
    assert cli.main(["evaluate", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["optimistic"] == OPTIMISTIC
    assert cli.main(["report", str(out), str(runs[0].path), f"--out={report}"]) == 0
    text = capsys.readouterr().out
    assert f"* {OPTIMISTIC}" in text
    assert text.count(" * ") == 2
    page = report.read_text()
    assert "<strong>fitted is optimistic.</strong>" in page
    for name in ("comparison", "ensembles", "confusion"):
        assert '<span class="remark">optimistic</span>' in section(page, name)


def test_an_honest_ensemble_is_not_labelled(
    runs: list[RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*paths(runs), "--weights", "search", f"--out={tmp_path / 'e'}"]) == 0
    for command in ("evaluate", "report"):
        assert cli.main([command, str(tmp_path / "e")]) == 0
    assert "optimistic" not in capsys.readouterr().out
    page = (tmp_path / "e" / "report.html").read_text()
    assert "optimistic" not in page
    assert 'id="ensembles"' in page
    for part in ("60 training images that no member had seen", "pattern 3", "weights of the lowest loss"):
        assert part in page


# evaluate and load_model of an ensemble


@pytest.fixture(scope="module")
def stacked(runs: list[RunFolder], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return ensemble(runs, method="stack", out=tmp_path_factory.mktemp("stacked") / "ensemble")


def test_evaluate_computes_it_anew_from_the_members(runs: list[RunFolder], stacked: RunFolder) -> None:
    found = evaluate(stacked)
    stored = stacked.read_result()
    assert found.scores.accuracy_percent == stored["test_accuracy_percent"]
    assert found.scores.loss == pytest.approx(stored["test_loss"], rel=1e-5)
    assert len(found.about["members"]) == 3
    assert found.about["images_per_second"] > 0
    assert found.about["ensemble"]["method"] == "stack"
    mirrored = evaluate(stacked, tta="mirror")
    assert mirrored.scores.loss != found.scores.loss
    other = evaluate(stacked, dataset="synthetic:classes=4,test=30,size=18", batch_size=7)
    assert other.scores.images == 30
    assert other.scores.per_class[2].name == "pattern 2"


def test_the_ensemble_as_one_model(stacked: RunFolder) -> None:
    model = load_model(stacked.path)
    images = load_dataset(DATA).test.images
    with torch.inference_mode():
        logits = model(images)
    assert np.allclose(logits, stacked.read_predictions()[0], atol=1e-5)
    assert model.classes == ("pattern 0", "pattern 1", "pattern 2", "pattern 3")


def test_without_its_members_the_stored_predictions_are_scored(
    runs: list[RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Fails
) -> None:
    copies = [copied(run, tmp_path / "a" / run.path.name) for run in runs]
    made = ensemble(copies, weights="search", out=tmp_path / "a" / "ensemble")
    loss = evaluate(made).scores.loss
    (tmp_path / "a").rename(tmp_path / "b")  # moved as a whole, the members are found beside it
    moved = RunFolder(tmp_path / "b" / "ensemble")
    capsys.readouterr()
    assert len(evaluate(moved).about["members"]) == 3
    assert capsys.readouterr().err == ""
    shutil.rmtree(tmp_path / "b" / "linear")
    assert evaluate(moved).scores.loss == pytest.approx(loss, rel=1e-5)
    assert "linear" in capsys.readouterr().err
    fails("evaluate", moved.path, "--tta=mirror")


def test_a_member_that_was_trained_anew_is_noticed(
    runs: list[RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = copied(runs[0], tmp_path / "linear").path
    made = ensemble([copy, runs[1]], out=tmp_path / "e")
    shutil.rmtree(copy)
    again = [f"--dataset={DATA}", "--val-split=0.25", "--arch=linear", "--epochs=1", "--quiet", f"--out={copy}"]
    assert run_inline(again).code == 0
    stored = made.read_result()["test_loss"]
    assert evaluate(made).scores.loss == pytest.approx(stored, rel=1e-5)
    assert "other weights" in capsys.readouterr().err
    with pytest.raises(UserError, match="make it anew"):
        load_model(made.path)


def test_the_result_as_json(runs: list[RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*paths(runs), "--json", f"--out={tmp_path / 'e'}"]) == 0
    assert json.loads(capsys.readouterr().out) == RunFolder(tmp_path / "e").read_result()


@pytest.mark.gpu
@pytest.mark.parametrize("settings", FITTED, ids=lambda settings: settings["method"])
def test_on_a_gpu(settings: dict[str, Any], runs: list[RunFolder], tmp_path: Path) -> None:
    made = ensemble(runs, device="cuda", out=tmp_path / "e", **settings)
    assert evaluate(made, device="cuda").scores.loss == pytest.approx(made.read_result()["test_loss"], rel=1e-3)
    with torch.inference_mode():
        logits = load_model(made.path, device="cuda")(load_dataset(DATA).test.images.cuda()).cpu()
    assert np.allclose(logits, made.read_predictions()[0], atol=1e-2)


# folds


def fold_runs(folder: Path, model: str, seed: int, folds: int = 3) -> list[RunFolder]:
    """Runs of untrained networks with the weights of seed, seed + 1, …, one for each fold."""
    return [
        make_run(folder / f"{model}-fold{k}", dataset=SMALL, seed=seed + k, name=f"{model} fold {k} of {folds}")
        for k in range(folds)
    ]


@pytest.fixture
def folds_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the made-up runs' names say which fold they held out, all with the split of seed 7."""

    def fold_of(recipe: Recipe) -> tuple[int, int]:
        words = recipe.name.split()
        return (int(words[4]), int(words[2])) if "fold" in words else (0, 0)

    original = members_module.read_member

    def read_member(run: RunFolder) -> members_module.Member:
        member = original(run)
        return dataclasses.replace(member, recipe=dataclasses.replace(member.recipe, seed=7))

    def same_model(ours: Recipe, theirs: Recipe) -> bool:
        return ours.name.split()[0] == theirs.name.split()[0]

    monkeypatch.setattr(members_module, "fold_of", fold_of)
    monkeypatch.setattr(members_module, "read_member", read_member)
    monkeypatch.setattr(members_module, "_same_but_fold", same_model)


@pytest.mark.usefixtures("folds_by_name")
def test_models_with_folds_are_fitted_on_every_training_image(tmp_path: Path) -> None:
    first, second = fold_runs(tmp_path, "a", 0), fold_runs(tmp_path, "b", 10)
    mixed = [second[1], first[2], second[0], first[0], first[1], second[2]]
    made = ensemble(mixed, weights="search", out=tmp_path / "e").read_result()["ensemble"]
    splits = load_dataset(SMALL)
    parts = [hold_out_fold(splits, 3, k, 7).val for k in range(3)]
    labels = torch.cat([part.labels for part in parts if part])
    with torch.inference_mode():
        of_parts = [
            [load_model(run.path)(part.images) for run, part in zip(group, parts, strict=True) if part]
            for group in (second, first)
        ]
    logits = torch.stack([torch.cat(each) for each in of_parts])
    weights, loss = search_weights(logits, labels)
    assert (made["fit_images"], made["runs"], made["held_out"]) == (60, [3, 3], "3 folds of seed 7")
    assert made["fit_loss"] == pytest.approx(loss, rel=1e-5)
    assert made["weights"] == pytest.approx([w / 3 for w in weights for _ in range(3)], abs=1e-5)
    assert [m["name"] for m in made["members"]] == [run.path.name for run in (*second, *first)]
    stack = ensemble(mixed, method="stack", epochs=1, out=tmp_path / "s")
    assert load_model(stack.path)(splits.test.images).shape == (40, 3)


def test_runs_of_other_seeds_can_hold_out_the_same_images(tmp_path: Path) -> None:
    held: dict[str, Any] = {"dataset": SMALL, "val_split": 0.25}
    runs = [make_run(tmp_path / f"seed{seed}", seed=seed, split_seed=7, **held) for seed in (1, 2)]
    made = ensemble(runs, weights="search", out=tmp_path / "e").read_result()["ensemble"]
    assert (made["fit_images"], made["held_out"]) == (15, "val_split 0.25 of seed 7")
    assert made["data"]["split_seed"] == 7
    other = make_run(tmp_path / "other", seed=7, **held)  # the same images, by its own seed
    assert ensemble([*runs, other], weights="search", out=tmp_path / "f").exists
    stranger = make_run(tmp_path / "stranger", seed=1, **held)
    with pytest.raises(UserError, match=r"val_split 0\.25 of seed 1\).*val_split 0\.25 of seed 7.*--split-seed"):
        ensemble([*runs, stranger], weights="search", out=tmp_path / "g")


@pytest.mark.usefixtures("folds_by_name")
def test_folds_that_are_not_complete(tmp_path: Path) -> None:
    first, second = fold_runs(tmp_path, "a", 0), fold_runs(tmp_path, "b", 10)
    plain = make_run(tmp_path / "plain", dataset=SMALL, val_split=0.2)
    for chosen, part in (
        ([*first[:2], *second], "folds [0, 1] are named"),
        (first, "folds of one model"),
        ([*first, plain], "other images"),
    ):
        with refused(part):
            ensemble(chosen, weights="search", out=tmp_path / "e")
    assert ensemble(first, out=tmp_path / "e").read_result()["ensemble"]["runs"] == [1, 1, 1]


def test_folds_trained_from_the_command_line(tmp_path: Path) -> None:
    made = []
    for arch, fold in itertools.product(("linear", "lenet"), range(2)):
        out = tmp_path / f"{arch}{fold}"
        flags = [f"--dataset={SMALL}", f"--arch={arch}", "--folds=2", f"--fold={fold}", "--epochs=1", "--quiet"]
        run_inline([*flags, "--batch-size=16", f"--out={out}"], code=0)
        made.append(out)
    entry = ensemble(made, weights="search", out=tmp_path / "e").read_result()["ensemble"]
    assert (entry["fit_images"], entry["runs"]) == (60, [2, 2])


# recipes


def test_the_recipes_of_ensembles() -> None:
    assert ensemble_recipe_names() == ["b32_ensemble", "b33_stack"]
    vote, stack = map(load_ensemble_recipe, ensemble_recipe_names())
    assert vote.members == stack.members == ("b27_wrn_200", "b30_pyramid_200", "b31_pyramid_400")
    assert (vote.settings.method, vote.settings.weights) == ("vote", (0.25, 0.25, 0.5))
    assert (stack.settings.method, stack.settings.epochs, stack.settings.optimistic) == ("stack", 20, True)
    assert (vote.about.reported_accuracy_percent, stack.about.reported_accuracy_percent) == (97.75, 97.78)
    assert not set(ensemble_recipe_names()) & set(recipe_names())


@pytest.mark.parametrize("name", ensemble_recipe_names())
def test_a_recipe_finds_its_members(name: str, tmp_path: Path, fails: Fails) -> None:
    members = load_ensemble_recipe(name).members
    made = [str(make_run(tmp_path / m, dataset=SMALL, seed=i, name=m).path) for i, m in enumerate(members)]
    out = tmp_path / "e"
    assert main([f"--recipe={name}", *made[::-1], f"--out={out}"]) == 0
    record = read_record(RunFolder(out))
    assert [entry["recipe"] for entry in record.members] == list(members)
    assert record.recipe.settings == load_ensemble_recipe(name).settings
    assert record.result["recipe"] == name
    other = str(make_run(tmp_path / "other", dataset=SMALL, name="b01_lenet").path)
    for wrong, part in ((made[:2], members[2]), ([*made[:2], other], "b01_lenet"), ([*made, made[0]], "both")):
        assert part in fails("ensemble", f"--recipe={name}", *wrong, f"--out={tmp_path / 'f'}")


def test_recipe_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[ensemble]\nmembers = ["a", "b"]\nmethod = "stack"\nhidden = [8, 4]\n')
    assert load_ensemble_recipe(str(file)).settings.hidden == (8, 4)
    for text, part in (
        ("[ensemble]\nmembers = [1]\n", "members: 0 = 1"),
        ("[ensemble]\nmembers = []\nmetod = 1\n", "did you mean 'method'"),
        ("[ensemble]\nmembers = []\nmethod = 'mean'\n", "method = 'mean'"),
        ("[ensemble]\nmembers = []\nhidden = [8]\n", "hidden"),
        ("[ensemble]\nmembers = []\ndropout = 1.5\n", "dropout"),
        ("[ensemble]\nmembers = []\nweights = [0.5, -1]\n", "at least 0"),
        ("[ensemble]\nmembers = []\nweights = [nan, 1]\n", "finite"),
        ("[ensemble]\nmembers = []\nweights = 3\n", "list of numbers"),
        ("[ensemble]\nmembers = []\nmethod = 'stack'\nweights = [1]\n", "for the method vote"),
        ("[ensemble]\nmembers = []\nfit_on = 'test-as-reported'\n", "nothing is fitted"),
        ("epochs = 3\n", "unknown key 'epochs'"),
        ("name = 'x'\n", "[ensemble] table"),
        ("[ensemble\n", "not TOML"),
    ):
        file.write_text(text)
        with refused(part):
            load_ensemble_recipe(str(file))
    for name, part in (("b33_stak", "did you mean 'b33_stack'"), (str(tmp_path / "none.toml"), "cannot read")):
        with refused(part):
            load_ensemble_recipe(name)


# bad input


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    folder = tmp_path_factory.mktemp("pair")
    return [make_run(folder / name, dataset=SMALL, seed=i, val_split=0.2) for i, name in enumerate(("one", "two"))]


def rewrite_json(path: Path, change: Callable[[Any], Any]) -> bytes:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    return path.read_bytes()


def rename_classes(run: RunFolder) -> None:
    (step,) = run.checkpoints.iterdir()
    state = rewrite_json(step / "state.json", lambda state: state | {"classes": state["classes"][::-1]})
    rewrite_in_checkpoint(step, "state.json", state)


def replace_by_run_on(run: RunFolder, dataset: str) -> None:
    shutil.rmtree(run.path)
    make_run(run.path, dataset=dataset)


def older_checkpoint(run: RunFolder) -> None:
    (step,) = run.checkpoints.iterdir()
    rewrite_json(step / "manifest.json", lambda manifest: manifest | {"version": 0})


DAMAGE: dict[Callable[[RunFolder], Any], str] = {
    (lambda run: predict(run, *(each[::-1] for each in run.read_predictions()))): "labels differ",
    rename_classes: "pattern 2, pattern 1, pattern 0",
    (lambda run: (run.path / "result.json").unlink()): "no result.json",
    (lambda run: (run.path / "predictions.npz").unlink()): "did not finish",
    (lambda run: without(run, "fingerprint")): "lacks fingerprint: was it written by another version",
    older_checkpoint: "checkpoint version 0",
    (lambda run: (run.path / "config.toml").write_text("tomorrow = 1\n")): "tomorrow",
    (lambda run: shutil.rmtree(run.path)): "config.toml",
    (lambda run: replace_by_run_on(run, "synthetic:classes=4,train=60,test=40")): "has 4 classes",
    (lambda run: replace_by_run_on(run, "synthetic:classes=3,train=61,test=40")): "is on other data",
}


@pytest.mark.parametrize(("damage", "part"), DAMAGE.items(), ids=DAMAGE.values())
def test_runs_that_cannot_be_combined(
    damage: Callable[[RunFolder], Any], part: str, pair: list[RunFolder], tmp_path: Path, fails: Fails
) -> None:
    copy = copied(pair[1], tmp_path / "copy")
    damage(copy)
    assert part in fails("ensemble", pair[0].path, copy.path, f"--out={tmp_path / 'e'}")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--weights", "0.5"], "1 weights for 2 runs"),
        (["--weights", "0.5", "-0.5"], "at least 0"),
        (["--weights", "0.5", "inf"], "finite"),
        (["--weights", "0.5", "nan"], "finite"),
        (["--weights", "0", "0"], "above 0"),
        (["--weights", "0.5", "half"], "equal, search or a number"),
        (["--method=stack", "--weights", "0.5", "0.5"], "for the method vote"),
        (["--fit-on=test-as-reported"], "nothing is fitted"),
        (["--method=stack", "--epochs=0"], "epochs = 0"),
        (["--method=stack", "--lr=-1"], "lr = -1"),
        (["--weights", "search"], "other images"),  # the two have different seeds
        (["--eval-batch-size=0"], "at least 1"),
        (["--wights", "equal"], "--weights"),
        (["--recipe=b99"], "no ensemble recipe"),
    ],
)
def test_wrong_settings(flags: list[str], part: str, pair: list[RunFolder], tmp_path: Path, fails: Fails) -> None:
    assert part in fails("ensemble", *paths(pair), *flags, f"--out={tmp_path / 'e'}")
    assert not (tmp_path / "e").exists()


def test_nothing_held_out_and_nothing_to_combine(tmp_path: Path, fails: Fails) -> None:
    out, other_out = f"--out={tmp_path / 'e'}", f"--out={tmp_path / 'f'}"
    bare = [str(make_run(tmp_path / f"bare{i}", dataset=SMALL, seed=i).path) for i in range(2)]
    for arguments, part in (
        ([*bare, "--weights", "search"], "held no training images out"),
        ([*bare, "--method=stack"], "held no training images out"),
        ([bare[0]], "at least 2 runs, not 1"),
        ([bare[0], bare[0]], "named twice"),
    ):
        assert part in fails("ensemble", *arguments, out)
    shutil.rmtree(Path(bare[1]) / "checkpoints")
    assert main([*bare, out]) == 0  # votes need the stored predictions only
    assert "choose another --out" in fails("ensemble", *bare, out)
    assert "is an ensemble" in fails("ensemble", bare[0], tmp_path / "e", other_out)
    held = [str(make_run(tmp_path / f"held{i}", dataset=SMALL, val_split=0.2).path) for i in range(2)]
    shutil.rmtree(Path(held[1]) / "checkpoints")
    assert "has no checkpoint" in fails("ensemble", *held, "--weights", "search", other_out)


def test_a_damaged_ensemble(stacked: RunFolder, tmp_path: Path, fails: Fails) -> None:
    damages: dict[str, Callable[[Path], Any]] = {
        "no meta_learner": lambda path: (path / "meta_learner.safetensors").unlink(),
        "meta_learner": lambda path: (path / "meta_learner.safetensors").write_bytes(b"0"),
        "another version": lambda path: without(RunFolder(path), "ensemble"),
        "tomorrow": lambda path: (path / "config.toml").write_text("[ensemble]\nmembers = []\ntomorrow = 1\n"),
    }
    for part, damage in damages.items():
        copy = copied(stacked, tmp_path / part)
        damage(copy.path)
        error = fails("evaluate", copy.path)
        assert part in error.replace(str(copy.path), "")


def test_weights_on_the_command_line() -> None:
    assert parse_weights(["search"]) == "search"
    assert parse_weights(["0.25", "1e-1"]) == [0.25, 0.1]
    with refused("the runs come first"):
        parse_weights(["0.5", "0.5", "runs/a"])
