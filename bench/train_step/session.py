"""What a benchmark session has measured already: every contender of a case is built, verified and timed once."""

import gc
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from bench.floors import NOMINAL_H200, VARIANTS, floors
from bench.measure import Rates, quantiles

from .cases import Case, load_images
from .contenders import AUGMENTED, INCLUDES, INCLUDES_AUGMENTED, OURS, Contender, Kind, Torch
from .timing import PeakMemory, StepTimes
from .verify import Judge

Row = dict[str, Any]


@dataclass(frozen=True)
class Steps:
    """How many steps are timed at least."""

    ours: int
    torch: int


class Session:
    """Measures contenders.

    Args:
        device: where.
        rates: of the device, for the floors.
        short: fewer steps.
        failed: cases of which this package's step is known to fail.
    """

    def __init__(
        self, device: torch.device, rates: Rates, *, short: bool, failed: Collection[Case] = frozenset()
    ) -> None:
        self.device, self.rates = device, rates
        self._failed = set(failed)
        self.steps = Steps(60, 30) if short else Steps(200, 100)
        if device.type == "cpu":
            self.steps = Steps(8, 4)
        self.splits = load_images(device)
        self._judges: dict[Case, Judge] = {}
        self._verified: dict[tuple[Case, Kind], dict[str, Any]] = {}
        self._ours: dict[Case, StepTimes] = {}

    def rows(self, case: Case, kind: Kind) -> Iterator[tuple[str, Row]]:
        """Name and figures of a contender's rows: one, or two where the batch is given and where it is made.

        Each comes twice, when it is timed and, where there is a GPU, with what the profiler saw of it. Where this
        package's own step fails, the others' rows have no ratio to it.

        Raises:
            WrongStep: the contender does not compute the step; nothing is timed.
        """
        with library_settings():
            # what is compared with is measured before anything of this contender is there
            if kind != OURS:
                self.compared(case)
            elif case.passes == 2:
                self.compared(replace(case, optimizer="sgd"))
            try:
                contender, verified, memory = self._contender(case, kind)
                timed = []
                for augmented in (True,) if kind.ours else (False, True):
                    times = self._time(contender, kind, augmented)
                    if kind == OURS:
                        self._ours[case] = times
                    name, row = kind.name, self._figures(case, kind, times) | memory.figures()
                    row |= {"includes": INCLUDES[kind.ours], "verified": verified}
                    if augmented and not kind.ours:
                        name, row["includes"] = name + AUGMENTED, INCLUDES_AUGMENTED
                    timed.append((augmented, f"{case.name} | {name}", {"contender": name, **row}))
                    yield timed[-1][1:]
            except Exception:
                if kind == OURS:
                    self._failed.add(case)
                raise
            # the profiler last: what it disturbs or fails at is timed already
            if self.device.type == "cuda":
                for augmented, name, row in timed:
                    yield name, row | self._profile(contender, augmented)
            del contender
            self._tidy()

    def _time(self, contender: Contender, kind: Kind, augmented: bool) -> StepTimes:
        if isinstance(contender, Torch):
            contender.augmented = augmented
        return contender.time(self.steps.ours if kind.ours else self.steps.torch)

    def _contender(self, case: Case, kind: Kind) -> tuple[Contender, dict[str, Any], PeakMemory]:
        """A verified contender to time, the judgement, and its memory from now on."""
        if kind.slow_start and not case.dropout:  # one and the same is verified and timed
            judge, memory = self._judge(case), PeakMemory(self.device)
            contender = kind.build(case, self.splits)
            return contender, judge.verify(kind, contender), memory
        verified, memory = self._verify(case, kind), PeakMemory(self.device)
        return kind.build(case, self.splits, timed_steps=self.steps.ours), verified, memory

    def _verify(self, case: Case, kind: Kind) -> dict[str, Any]:
        case = replace(case, dropout=False)
        if (case, kind) not in self._verified:
            contender = kind.build(case, self.splits) if kind.slow_start else None
            self._verified[case, kind] = self._judge(case).verify(kind, contender)
            self._tidy()
        return self._verified[case, kind]

    def _judge(self, case: Case) -> Judge:
        case = replace(case, dropout=False)
        if case not in self._judges:
            self._judges[case] = Judge(case, self.splits)
        return self._judges[case]

    def compared(self, case: Case) -> StepTimes | None:
        """``ours``, or None, after the traceback, where that fails: others are worth measuring all the same."""
        if case in self._failed:
            return None
        try:
            return self.ours(case)
        except Exception:
            self._failed.add(case)
            traceback.print_exc()
            return None

    def ours(self, case: Case) -> StepTimes:
        """The times of this package's captured step, measured in this session."""
        if case not in self._ours:
            with library_settings():
                self._verify(case, OURS)
                contender = OURS.build(case, self.splits, timed_steps=self.steps.ours)
                self._ours[case] = contender.time(self.steps.ours)
                del contender
                self._tidy()
        return self._ours[case]

    def _figures(self, case: Case, kind: Kind, times: StepTimes) -> Row:
        ms = {key: 1e3 * seconds for key, seconds in quantiles(times.periods).items()}
        ours = self._median(case)
        row: Row = {
            "arch": case.arch,
            "optimizer": case.optimizer,
            "batch": case.batch,
            "dropout": case.dropout,
            "dtype": "bfloat16" if self.device.type == "cuda" else "float32",
            "data": self.splits.name,
            "images_per_second": 1e3 * case.batch / ms["median"],
            "step_ms": ms,
            "steps": len(times.periods),
            "share_between_steps": times.between,
            "times_as_long_as_cifarfast": ms["median"] * 1e-3 / ours if ours else None,
            "rates": asdict(self.rates),
            "percent_of_floor": self._percent_of_floors(case, ms["median"] * 1e-3),
        }
        if kind == OURS and case.passes == 2:
            plain = self._median(replace(case, optimizer="sgd"))
            row["plain_steps"] = ours / plain if ours and plain else None
        return row

    def _median(self, case: Case) -> float | None:
        """The median seconds of this package's step, None where it fails."""
        times = self.compared(case)
        return quantiles(times.periods)["median"] if times else None

    def _percent_of_floors(self, case: Case, seconds: float) -> dict[str, dict[str, float]]:
        """The floors' part of the time, at DESIGN's rates of an H200 and at those measured here, in percent."""
        network = floors(case.arch)
        return {
            name: {
                variant: 100 * network[variant].step_seconds(case.batch, rates, passes=case.passes) / seconds
                for variant in VARIANTS
            }
            for name, rates in (("nominal_h200", NOMINAL_H200), ("measured", self.rates))
        }

    def _profile(self, contender: Contender, augmented: bool) -> Row:
        if isinstance(contender, Torch):
            contender.augmented = augmented
        profile = contender.profile()
        return {
            "kernels_per_step": profile.kernels,
            "memory_operations_per_step": profile.memory_operations,
            "gpu_busy_share": profile.busy_share,
            "top_kernels": profile.top,
        }

    def _tidy(self) -> None:
        """Give back memory, and what torch.compile keeps."""
        torch.compiler.reset()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def library_settings() -> Iterator[None]:
    """Context after which torch chooses its algorithms as before."""
    deterministic, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
