"""The step in plain torch that ours is compared with, the judgement, and the reading of the clock."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.measure import Rates
from bench.train_step import ahead, cases, contenders, timing
from bench.train_step.cases import OTHERS, TARGETED, TINY, Case
from bench.train_step.contenders import EAGER, KINDS, OURS, Ours, Torch
from bench.train_step.plain import PADDING, PlainBatches, PlainShakeDrop, PlainStep
from bench.train_step.session import Session, Steps
from bench.train_step.timing import GpuEvent, StepTimes, Watch, summarise
from bench.train_step.verify import Errors, Judge, WrongStep
from cifarfast.data import Splits, load_dataset
from cifarfast.kernels.shakedrop.draws import Scaling, draw_coefficients
from cifarfast.kernels.shakedrop.reference import shakedrop_reference
from cifarfast.training.engine import Trainer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_dataset("synthetic:train=64,test=10,size=16")


# plain torch


@pytest.mark.parametrize("choice_for", [None, 6])
def test_shakedrop_with_given_coefficients(choice_for: int | None) -> None:
    seed, step = torch.tensor(3), torch.tensor(5)
    indices = torch.arange(20, 26)
    scaling = Scaling(seed, step, indices, 0.6, 2, "image", "image")
    module = PlainShakeDrop(0.6, choice_for)
    module.give(torch.stack(draw_coefficients((6, 1, 1, 1), CPU, scaling)))
    reference = partial(shakedrop_reference, keep_probability=0.6, seed=seed, step=step, layer=2, indices=indices)
    results = []
    for function in (module, reference):
        torch.manual_seed(0)
        shortcut, branch, cotangent = (torch.randn(6, 4, 3, 3).requires_grad_() for _ in range(3))
        out = function(shortcut, branch)
        results.append((out, *torch.autograd.grad(out, (shortcut, branch), cotangent.detach())))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)
    module.give(None)
    assert not torch.equal(module(shortcut, branch), results[0][0])


def test_drawn_coefficients_have_the_right_distribution() -> None:
    torch.manual_seed(0)
    module, branch = PlainShakeDrop(0.7), torch.ones(20_000, 1, 1, 1, requires_grad=True)
    out = module(torch.zeros_like(branch), branch)
    (gradient,) = torch.autograd.grad(out.sum(), branch)
    scales, back = out.detach().flatten(), gradient.flatten()
    kept = scales == 1
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.02)
    assert torch.equal(kept, back == 1)
    assert scales[~kept].mean().item() == pytest.approx(0.0, abs=0.03)
    assert back[~kept].mean().item() == pytest.approx(0.5, abs=0.03)
    module.eval()
    torch.testing.assert_close(module(torch.zeros_like(branch), branch), 0.7 * branch)


def test_augmented_batches_are_crops_and_mirror_images(splits: Splits) -> None:
    torch.manual_seed(0)
    batches = PlainBatches(splits.train, (0.5,) * 3, (0.25,) * 3)
    indices = torch.arange(16)
    plain, labels = batches.given(indices)
    expected = (splits.train.images[:16].permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    torch.testing.assert_close(plain, expected)
    crops, same_labels = batches.augmented(indices)
    assert torch.equal(labels, same_labels)
    assert crops.shape == plain.shape
    assert crops.stride() == plain.stride()  # or a compiled model would be compiled again
    padded, seen = torch.nn.functional.pad(plain, (PADDING,) * 4), set()
    for crop, image in zip(crops, padded, strict=True):
        found = [
            (y, x, mirrored)
            for y in range(2 * PADDING + 1)
            for x in range(2 * PADDING + 1)
            for mirrored in (False, True)
            if torch.equal(crop, _window(image, y, x, mirrored))
        ]
        assert found
        seen.add(found[0])
    assert len(seen) > 10
    assert {mirrored for _, _, mirrored in seen} == {False, True}


def _window(image: Tensor, y: int, x: int, mirrored: bool) -> Tensor:
    window = image[:, y : y + 16, x : x + 16]
    return window.flip(2) if mirrored else window


def test_asam_restores_the_weights_and_the_statistics(splits: Splits) -> None:
    torch.manual_seed(0)
    step = PlainStep(replace(TINY[1], batch=8), CPU, torch.float32)
    step.optimizer.param_groups[0]["lr"] = 0.0
    before = [p.detach().clone() for p in step.parameters]
    images, labels = PlainBatches(splits.train, (0.5,) * 3, (0.25,) * 3).given(torch.arange(8))
    between: list[Any] = []
    step.run(images, labels, between_passes=lambda: between.extend(s.clone() for s in step.statistics))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(before, step.parameters, strict=True))
    # what the first pass made of them, not the second
    assert all(torch.equal(a, b) for a, b in zip(between, step.statistics, strict=True))


# verification


@pytest.mark.parametrize("case", TINY, ids=lambda case: case.name)
def test_our_contenders_are_accepted(case: Case) -> None:
    judge = Judge(replace(case, batch=8), load_dataset("synthetic:train=24,test=8,size=16"))
    for kind in (OURS, EAGER, next(kind for kind in KINDS if kind.name.endswith("torch's ops"))):
        figures = judge.verify(kind)
        assert 0 <= figures["fp32"]["update"] < figures["fp32_allowed"]["update"]


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        ("sgd", {"lr": 0.025}),
        ("sgd", {"momentum": 0.7}),
        ("sgd", {"label_smoothing": 0.3}),
        ("sgd", {"weight_decay": 0.3}),
        ("sgd", {"sam": "sam", "sam_rho": 1.0}),
        ("asam", {"sam_rho": 0.3}),
    ],
)
def test_a_wrong_step_is_not_timed(
    optimizer: str, settings: dict[str, Any], splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, build = Judge(Case("wrn10_1", optimizer, 8), splits), contenders.Ours
    monkeypatch.setattr(contenders, "Ours", lambda case, splits, **own: build(case, splits, **own | settings))
    with pytest.raises(WrongStep, match=f"wrn10_1 {optimizer} 8, cifarfast, fp32: .*update .*, allowed"):
        judge.verify(OURS)


def test_batch_norm_that_moves_twice_is_noticed(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge(Case("wrn10_1", "asam", 8), splits)
    monkeypatch.setattr("cifarfast.training.step.unmoved_statistics", lambda model: torch.enable_grad())
    with pytest.raises(WrongStep, match="statistics"):
        judge.verify(OURS)


def test_errors_that_are_no_numbers_are_too_large() -> None:
    lines = Errors(float("nan"), 0.1, 0.0).exceed(Errors(1.0, 0.2, 0.1))
    assert lines == ["loss nan, allowed 1"]


# time


class FakeClock:
    """Each look at it is the next of these moments."""

    def __init__(self, moments: list[float]) -> None:
        self.moments = iter(moments)

    def now(self) -> float:
        return next(self.moments)

    def seconds(self, first: float, last: float) -> float:
        return last - first

    def wait(self) -> None:
        pass


def test_times_of_steps_in_rows() -> None:
    watch = Watch(CPU)
    # two rows of three steps; a pause of 100 between the rows
    watch.clock = FakeClock([0, 8, 10, 18, 20, 28, 130, 138, 140, 149, 150, 158])  # type: ignore[assignment]
    for _ in range(6):
        watch.step(lambda: None)
    assert watch.times(row=3).periods == [10, 10, 10, 10]
    assert watch.times(skip=3, row=3).periods == [10, 10]
    assert watch.times(skip=3, row=3).gaps == [2, 1]
    assert watch.times(skip=3, row=3).between == pytest.approx(3 / 20)
    assert watch.times().periods[2] == 110


def test_what_the_gpu_did_in_a_step() -> None:
    events = [
        GpuEvent("conv", 0, 10),
        GpuEvent("Memcpy DtoD", 10, 11),
        GpuEvent("norm", 13, 15),
        GpuEvent("conv", 12, 16),  # beside the other
        GpuEvent("Memset", 18, 20),
    ]
    profile = summarise(reversed(events), steps=2)
    assert (profile.kernels, profile.memory_operations) == (1.5, 1.0)
    assert profile.busy_share == pytest.approx(17 / 20)
    assert profile.top[0] == {"name": "conv", "calls": 1.0, "microseconds": 7.0}
    assert summarise([], steps=2).busy_share == 0


def test_the_profiler_s_events_have_what_is_read() -> None:
    """The fields that ``profile_steps`` reads of torch's events exist, though there is no GPU to make them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profiler:
        torch.ones(3) + 1
    event = profiler.events()[0]
    assert event.device_type == torch.autograd.DeviceType.CPU
    assert event.time_range.end >= event.time_range.start


# session

SGD = Case("wrn10_1", "sgd", 8)


@pytest.fixture
def make_session(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Session]:
    monkeypatch.setattr("bench.train_step.session.load_images", lambda device: splits)

    def make(**settings: Any) -> Session:
        session = Session(CPU, Rates(1e11, 1e10), short=True, **settings)
        session.steps = Steps(ours=4, torch=3)
        return session

    return make


@pytest.mark.slow
def test_rows_of_a_session(make_session: Callable[..., Session]) -> None:
    session, case = make_session(), replace(SGD, optimizer="asam")
    rows = [pair for kind in (EAGER, OURS) for pair in session.rows(case, kind)]
    contenders = ["torch eager", "torch eager, augmented", "cifarfast"]
    assert [name for name, _ in rows] == [f"wrn10_1 asam 8 | {contender}" for contender in contenders]
    for _, row in rows:
        assert row["verified"]["fp32"]["update"] < row["verified"]["wrong_step"]["update"] / 2
        assert row["images_per_second"] == pytest.approx(8e3 / row["step_ms"]["median"])
        assert 0 <= row["share_between_steps"] < 1
        floors = row["percent_of_floor"]["measured"]
        assert floors["a"] > floors["b"] > 0
    assert rows[2][1]["times_as_long_as_cifarfast"] == pytest.approx(1.0)
    assert rows[2][1]["plain_steps"] > 0
    assert "plain_steps" not in rows[0][1]


def test_others_are_timed_where_ours_fails(
    make_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attempts = []

    def fail(self: Ours, steps: int) -> StepTimes:
        attempts.append(self.case)
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(Ours, "time", fail)
    session = make_session()
    (_, row), _ = session.rows(SGD, EAGER)
    assert row["step_ms"]["median"] > 0
    assert row["times_as_long_as_cifarfast"] is None
    assert "RuntimeError: no kernel image" in capsys.readouterr().err
    list(session.rows(SGD, EAGER))
    assert attempts == [SGD]  # not again and again
    with pytest.raises(RuntimeError, match="no kernel image"):
        list(session.rows(SGD, OURS))
    # as in a process that goes on where this one was ended
    later = make_session(failed={SGD})
    attempts.clear()
    assert [row["times_as_long_as_cifarfast"] for _, row in later.rows(SGD, EAGER)] == [None, None]
    assert attempts == []


def test_a_time_is_there_before_the_profiler_begins(
    make_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.train_step.session.PeakMemory", lambda device: timing.PeakMemory(CPU))
    seen = []

    def profile(self: Torch) -> timing.Profile:
        seen.append(self.augmented)
        if len(seen) == 2:
            raise RuntimeError("CUPTI")
        return timing.Profile(7.0, 1.0, 0.5, [])

    monkeypatch.setattr(Torch, "profile", profile)
    session = make_session()
    session.ours(SGD)
    session.device = torch.device("cuda")
    rows: dict[str, Any] = {}
    with pytest.raises(RuntimeError, match="CUPTI"):
        rows.update(session.rows(SGD, EAGER))
    plain, augmented = rows.values()
    assert seen == [False, True]
    assert plain["kernels_per_step"] == 7.0
    assert augmented["step_ms"]["median"] > 0
    assert "kernels_per_step" not in augmented


def test_a_contender_that_is_wrong_gives_no_row(
    make_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Torch, "step", lambda self, number: 1.0)
    with pytest.raises(WrongStep):
        next(make_session().rows(SGD, EAGER))


def test_a_step_that_is_not_recorded_is_not_timed_as_a_graph(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = contenders.Ours(SGD, splits, timed_steps=4)
    monkeypatch.setattr(Trainer, "fit", lambda self: {})
    monkeypatch.setattr(ours.trainer, "device", torch.device("cuda"))
    monkeypatch.setattr(timing.Clock, "wait", lambda self: None)
    with pytest.raises(RuntimeError, match="CUDA graph"):
        ours.time(4)


def test_steps_for_the_compilers_caches(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ahead.together(TARGETED) == [
        [Case("wrn16_8", "sgd", 512), Case("wrn16_8", "sgd", 128), Case("wrn16_8", "asam", 128)],
        [Case(cases.PYRAMID, "sgd", 128), Case(cases.PYRAMID, "asam", 128)],
    ]
    monkeypatch.setattr("bench.train_step.ahead.load_images", lambda device: splits)
    done = []
    step = Ours.step
    monkeypatch.setattr(Ours, "step", lambda self, number: done.append(self.recipe.graph) or step(self, number))
    ahead.run_steps([replace(case, batch=8) for case in TINY], "fp32", CPU)
    assert done == [False, False]


def test_cases() -> None:
    everything = [*TARGETED, *OTHERS]
    assert len({case.name for case in everything}) == len(everything)
    without_dropout = {(case.arch, case.optimizer, case.batch) for case in everything if not case.dropout}
    assert without_dropout == {
        (arch, optimizer, batch)
        for arch in (cases.WRN, cases.PYRAMID)
        for optimizer in ("sgd", "asam")
        for batch in (128, 512)
    }
    assert StepTimes([2.0, 2.0], [0.1, 0.1]).between == pytest.approx(0.05)
