"""What there is to measure: every op at the shapes of its spec, a convolution's kernels apart."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch

from ..convolution.sample_inputs import sizes
from ..testing.spec import SampleMaker, all_specs
from .candidates import PARTS

# the ops of which a step of WRN-16-8 or PyramidNet-110 is made, those in which it spends most of its time first;
# the convolutions later, as the library's are there without being tuned
_STEP = (
    *("batch_norm_act", "shakedrop_bn_shortcut", "add_batch_norm_act"),
    *("flat_optimizer", "flat_perturb", "flat_norm", "global_avg_pool_act", "cross_entropy"),
    *("bn_act_conv2d", "conv2d", "conv2d_bn_act"),
)
_BATCH = 128  # of the steps that ASAM makes slow
# the ops whose kernels a convolution op launches; conv2d_bn_act has none of its own
PARTS_OF = {"bn_act_conv2d": "bn_act_conv2d", "conv2d_bn_act": "conv2d", "conv2d": "conv2d"}


@dataclass(frozen=True)
class Workload:
    """One shape of an op, or of one kernel of a convolution.

    Args:
        op: whose spec has the case.
        part: fwd, dgrad or wgrad, else "" for the whole op.
        case: its name in the spec.
        size: by which the op's row is looked up.
    """

    op: str
    part: str
    case: str
    size: int

    @property
    def key(self) -> str:
        """Its name in the file of measurements."""
        return f"{self.op} {self.part or 'whole'} {self.size}: {self.case}"


@cache
def workloads(op: str) -> tuple[Workload, ...]:
    """What must be measured for an op: by size, the parts of a convolution before the whole. None without tiles."""
    spec = next(spec for spec in all_specs() if spec.name == op)
    if spec.tile_size is None:
        return ()
    cases: dict[int, list[str]] = {}
    for name, case in {**spec.benchmark_cases, **spec.tuning_cases}.items():
        inputs = case(SampleMaker(torch.bfloat16, "meta"))
        # a convolution with other strides or channels runs at the rows that the square ones gave
        if op not in PARTS_OF or (sizes(inputs).c == sizes(inputs).k and sizes(inputs).stride == 1):
            cases.setdefault(spec.tile_size(inputs), []).append(name)
    parts = PARTS if PARTS_OF.get(op) == op else ()
    return tuple(
        Workload(op, part, name, size) for size in sorted(cases) for part in (*parts, "") for name in cases[size]
    )


def all_workloads() -> dict[str, tuple[Workload, ...]]:
    """Those of every op that has tiles, the ops first that others build on."""
    first = {"batch_norm_act": 0, **dict.fromkeys(PARTS_OF.values(), 1)}
    ops = sorted((spec.name for spec in all_specs()), key=lambda op: (first.get(op, 2), op))
    return {op: workloads(op) for op in ops if workloads(op)}


def by_importance(found: Iterable[Workload]) -> list[Workload]:
    """The workloads in the order to measure them in: of batches up to 128 first, and of those the step's ops.

    Within an op they stay as they are, but for convolutions, which take longest: the widths of the two networks before
    those between them.
    """

    def rank(workload: Workload) -> tuple[int, ...]:
        batch = re.search(r"\b(\d+)x\d", workload.case)
        large = batch is not None and int(batch[1]) > _BATCH
        op = _STEP.index(workload.op) if workload.op in _STEP else len(_STEP)
        # the whole needs its parts, and those of conv2d_bn_act are conv2d'
        return large, op, workload.op in PARTS_OF and workload.size in _between()

    return sorted(found, key=rank)


@cache
def _between() -> frozenset[int]:
    """Widths that neither network is measured at."""
    cases = [workload for op in PARTS_OF for workload in workloads(op)]
    return frozenset(p.size for p in cases) - {p.size for p in cases if not p.case.startswith("between")}
