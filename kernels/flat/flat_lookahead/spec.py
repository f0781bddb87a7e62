"""The description of ``flat_lookahead`` for tests, benchmarks, compile report and docs."""

from typing import Any

import torch
from torch import Tensor

from ...testing.spec import Case, Inputs, SampleMaker
from .. import FlatScalar, flat_scalars, flat_table
from ..sample_inputs import flat_spec, large_normal, master_dtype
from ..sizes import pyramidnet110_lengths, wrn16_8_lengths
from .op import flat_lookahead


def _case(n: int, step: int, *, copy: bool = True, **settings: Any) -> Case:
    def make_inputs(make: SampleMaker) -> Inputs:
        dtype = master_dtype(make)
        scalars = flat_scalars(lr=0.1, device=make.device)
        scalars[FlatScalar.STEP] = step
        master, slow = make.randn(n, dtype=dtype), make.randn(n, dtype=dtype)
        return {
            "master": master,
            "slow": slow,
            "scalars": scalars,
            "copy": master.to(make.dtype, copy=True) if copy else None,
            **settings,
        }

    return make_inputs


def _random(make: SampleMaker, draw_int: Any) -> Inputs:
    settings = {"alpha": draw_int(0, 10) / 10, "every": draw_int(1, 6)}
    return _case(draw_int(1, 4000), draw_int(1, 20), copy=draw_int(0, 1) == 1, **settings)(make)


def _benchmark(lengths: list[int]) -> Case:
    def make_inputs(make: SampleMaker) -> Inputs:
        n = flat_table(lengths).length
        inputs = _case(1024, 5)(make)
        master, slow = (large_normal(make, n, dtype=torch.float32) for _ in range(2))
        return {**inputs, "master": master, "slow": slow, "copy": master.to(make.dtype, copy=True)}

    return make_inputs


def _reference(
    master: Tensor, slow: Tensor, scalars: Tensor, copy: Tensor | None = None, *, alpha: float = 0.5, every: int = 5
) -> None:
    """The formula, with the step read by the host."""
    if int(scalars[FlatScalar.STEP]) % every == 0 and not scalars[FlatScalar.SKIP]:
        slow.copy_(slow * (1 - alpha) + master * alpha)
        master.copy_(slow)
        if copy is not None:
            copy.copy_(slow)


def _eager(master: Tensor, slow: Tensor, scalars: Tensor, copy: Tensor) -> None:
    torch._foreach_lerp_([slow], [master], 0.5)
    torch._foreach_copy_([master], [slow])
    torch._foreach_copy_([copy], [slow])


def _bytes_moved(inputs: Inputs) -> int:
    copy = 0 if inputs["copy"] is None else inputs["copy"].nbytes
    return 2 * (inputs["master"].nbytes + inputs["slow"].nbytes) + copy


def _compile_cases() -> dict[str, Case]:
    return {"copy": _case(1 << 20, 5)}


SPEC = flat_spec(
    "flat_lookahead",
    summary="lookahead's slow weights over a flat buffer, due by the step counter in device memory",
    replaces="Lookahead (no torch function)",
    function=flat_lookahead,
    reference=_reference,
    eager=_eager,
    op_arguments=lambda inputs: (
        *(inputs[name] for name in ("master", "slow", "scalars", "copy")),
        inputs.get("alpha", 0.5),
        inputs.get("every", 5),
    ),
    mutates=("master", "slow", "copy"),
    cases={
        "due": _case(2048, 10),
        "not due": _case(1500, 11),
        "odd": _case(1500, 12, every=3, alpha=0.8),
        "one element": _case(1, 5, copy=False),
    },
    random_case=_random,
    benchmark_cases={
        "WRN-16-8": _benchmark(wrn16_8_lengths()),
        "PyramidNet-110": _benchmark(pyramidnet110_lengths()),
    },
    flops=lambda inputs: 3 * inputs["master"].shape[0],
    bytes_moved=_bytes_moved,
    compile_cases=_compile_cases,
)
