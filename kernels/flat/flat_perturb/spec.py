"""The description of ``flat_perturb`` for tests, benchmarks, compile report and docs."""

from typing import Any

import torch
from torch import Tensor

from ...testing.spec import Case, Inputs, SampleMaker, in_fp32
from .. import FlatTable
from ..flat_norm.op import flat_norm
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
from .op import flat_perturb
from .torch_impl import NORM_EPS


def _buffers(master: Tensor, grad: Tensor, table: FlatTable | None, dtype: torch.dtype, **settings: Any) -> Inputs:
    """The op's inputs, with the norm that belongs to them and a copy full of NaN."""
    weight = master if settings.get("adaptive") else None
    norm = flat_norm(grad, weight, table, eta=settings.get("eta", 0.0)).to(master.dtype)
    copy = torch.full_like(master, torch.nan, dtype=dtype)
    return {"copy": copy, "master": master, "grad": grad, "norm": norm, "table": table, **settings}


def _case(n: int, *, lengths: list[int] | None = None, lr_scale: list[float] | float = 1.0, **settings: Any) -> Case:
    def make_inputs(make: SampleMaker) -> Inputs:
        table = None if lengths is None else sample_table(make, lengths, lr_scale)
        master = make.randn(n, dtype=master_dtype(make))
        return _buffers(master, make.randn(n), table, make.dtype, rho=2.0, **settings)

    return make_inputs


def _random(make: SampleMaker, draw_int: Any) -> Inputs:
    return _case(**random_table(make, draw_int), adaptive=draw_int(0, 1) == 1, eta=draw_int(0, 2) / 10)(make)


def _benchmark(lengths: list[int], *, adaptive: bool) -> Case:
    def make_inputs(make: SampleMaker) -> Inputs:
        table = sample_table(make, lengths)
        master = large_normal(make, table.length, dtype=torch.float32)
        grad = large_normal(make, table.length)
        return _buffers(master, grad, table, make.dtype, rho=2.0, adaptive=adaptive)

    return make_inputs


def _reference(
    copy: Tensor,
    master: Tensor,
    grad: Tensor,
    norm: Tensor,
    table: FlatTable | None = None,
    *,
    rho: float,
    adaptive: bool = False,
    eta: float = 0.0,
) -> None:
    """The formula on whole buffers."""
    t = master.abs() + eta if adaptive else torch.ones_like(master)
    e = rho * t.square() * grad.to(master.dtype) / (norm + NORM_EPS)
    copy.copy_(master + where_active(e, table))


def _eager(
    copy: Tensor, master: Tensor, grad: Tensor, norm: Tensor, table: FlatTable, *, rho: float, adaptive: bool = False
) -> None:
    """e and w + e parameter by parameter with torch's foreach, then a foreach copy."""
    weights = segments(master, table)
    e = torch._foreach_mul(segments(grad.to(master.dtype), table), rho / (norm + NORM_EPS))
    if adaptive:
        torch._foreach_mul_(e, torch._foreach_mul(weights, weights))
    torch._foreach_add_(e, weights)
    torch._foreach_copy_(segments(copy, table), e)


def _compile_cases() -> dict[str, Case]:
    even = [1 << 20]
    return {
        "ASAM": _case(1 << 20, lengths=even, adaptive=True),
        "fp32 SAM": in_fp32(_case(1 << 20, lengths=even)),
    }


SPEC = flat_spec(
    "flat_perturb",
    summary="SAM's and ASAM's perturbed weights, from the fp32 master into the compute copy",
    replaces="SAM's first_step and restore (no torch function)",
    function=flat_perturb,
    reference=_reference,
    eager=_eager,
    op_arguments=lambda inputs: (
        *(inputs[name] for name in ("copy", "master", "grad", "norm")),
        settings_of(inputs["table"]),
        inputs["rho"],
        inputs.get("adaptive", False),
        inputs.get("eta", 0.0),
    ),
    mutates=("copy",),
    cases={
        "asam": _case(2048, adaptive=True),
        "sam": _case(1500),
        "eta": _case(1111, adaptive=True, eta=0.1),
        "one element": _case(1, adaptive=True),
        "frozen": _case(4 * 1024, lengths=[1000, 1500, 900], lr_scale=[1.0, 0.0, 0.5], adaptive=True),
    },
    random_case=_random,
    benchmark_cases={
        "ASAM, WRN-16-8": _benchmark(wrn16_8_lengths(), adaptive=True),
        "ASAM, PyramidNet-110": _benchmark(pyramidnet110_lengths(), adaptive=True),
        "SAM, WRN-16-8": _benchmark(wrn16_8_lengths(), adaptive=False),
    },
    flops=lambda inputs: 6 * inputs["master"].shape[0],
    bytes_moved=lambda inputs: sum(inputs[name].nbytes for name in ("copy", "master", "grad")),
    compile_cases=_compile_cases,
)
