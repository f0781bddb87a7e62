"""The description of ``flat_norm`` for tests, benchmarks, compile report and docs."""

from typing import Any

import torch
from torch import Tensor

from ...testing.spec import Case, Inputs, SampleMaker, in_fp32
from .. import FlatTable
from ..sample_inputs import (
    flat_spec,
    large_normal,
    master_dtype,
    random_table,
    sample_table,
    segments,
    settings_of,
    where_active,
)
from ..sizes import pyramidnet110_lengths, wrn16_8_lengths
from .op import flat_norm


def _case(
    n: int,
    *,
    asam: bool = False,
    lengths: list[int] | None = None,
    lr_scale: list[float] | float = 1.0,
    **settings: Any,
) -> Case:
    def make_inputs(make: SampleMaker) -> Inputs:
        table = None if lengths is None else sample_table(make, lengths, lr_scale)
        master = make.randn(n, dtype=master_dtype(make)) if asam else None
        return {"grad": make.randn(n), "master": master, "table": table, **settings}

    return make_inputs


def _random(make: SampleMaker, draw_int: Any) -> Inputs:
    return _case(**random_table(make, draw_int), asam=draw_int(0, 1) == 1, eta=draw_int(0, 2) / 10)(make)


def _benchmark(lengths: list[int], *, asam: bool) -> Case:
    def make_inputs(make: SampleMaker) -> Inputs:
        table = sample_table(make, lengths)
        master = large_normal(make, table.length, dtype=torch.float32) if asam else None
        return {"grad": large_normal(make, table.length), "master": master, "table": table}

    return make_inputs


def _reference(
    grad: Tensor, master: Tensor | None = None, table: FlatTable | None = None, *, eta: float = 0.0
) -> Tensor:
    """The norm in fp64, rounded at the end."""
    x = grad.double()
    if master is not None:
        x = x * (master.double().abs() + eta)
    return (
        where_active(x, table).square().sum().sqrt().to(torch.float64 if grad.dtype == torch.float64 else torch.float32)
    )


def _eager(grad: Tensor, master: Tensor | None, table: FlatTable) -> Tensor:
    """Norms of the parameters one by one with torch's foreach, then the norm of those."""
    x = segments(grad, table)
    if master is not None:
        weights = torch._foreach_abs(segments(master, table))
        x = list(torch._foreach_mul(weights, segments(grad.to(master.dtype), table)))
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(x)))


def _compile_cases() -> dict[str, Case]:
    even = [1 << 20]
    return {
        "gradient": _case(1 << 20),
        "fp32 gradient, frozen": in_fp32(_case(1 << 20, lengths=even)),
        "ASAM, frozen": _case(1 << 20, lengths=even, asam=True),
    }


SPEC = flat_spec(
    "flat_norm",
    summary="global gradient norm, and ASAM's ‖(abs(w) + eta)·g‖, over a flat buffer in a fixed order",
    replaces="torch.nn.utils.get_total_norm",
    function=flat_norm,
    reference=_reference,
    eager=_eager,
    op_arguments=lambda inputs: (
        inputs["grad"],
        inputs["master"],
        settings_of(inputs["table"]),
        inputs.get("eta", 0.0),
    ),
    cases={
        "gradient": _case(3000),
        "asam": _case(2048, asam=True),
        "eta": _case(1500, asam=True, eta=0.1),
        "one element": _case(1, asam=True),
        "frozen": _case(5 * 1024, lengths=[1000, 1500, 900, 1], lr_scale=[1.0, 0.0, 0.5, 1.0]),
        "frozen asam, odd": _case(4 * 1024 + 3, lengths=[1000, 1500, 900, 7], lr_scale=[0.0, 1.0, 0.0, 2.0], asam=True),
        "long": _case(11 * 1024 + 5),
    },
    random_case=_random,
    benchmark_cases={
        "gradient, WRN-16-8": _benchmark(wrn16_8_lengths(), asam=False),
        "ASAM, WRN-16-8": _benchmark(wrn16_8_lengths(), asam=True),
        "ASAM, PyramidNet-110": _benchmark(pyramidnet110_lengths(), asam=True),
    },
    flops=lambda inputs: inputs["grad"].shape[0] * (2 if inputs["master"] is None else 5),
    bytes_moved=lambda inputs: inputs["grad"].nbytes + (0 if inputs["master"] is None else inputs["master"].nbytes),
    compile_cases=_compile_cases,
)
