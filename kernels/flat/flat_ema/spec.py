"""The description of ``flat_ema`` for tests, benchmarks, compile report and docs."""

from typing import Any

import torch
from torch import Tensor

from ...testing.spec import Case, Inputs, SampleMaker
from .. import FlatScalar, flat_scalars, flat_table
from ..sample_inputs import flat_spec, large_normal, master_dtype
from ..sizes import pyramidnet110_lengths, wrn16_8_lengths
from .op import flat_ema


def _case(n: int, decay: float) -> Case:
    def make_inputs(make: SampleMaker) -> Inputs:
        dtype = master_dtype(make)
        scalars = flat_scalars(lr=0.1, ema_decay=decay, device=make.device)
        return {"ema": make.randn(n, dtype=dtype), "master": make.randn(n, dtype=dtype), "scalars": scalars}

    return make_inputs


def _random(make: SampleMaker, draw_int: Any) -> Inputs:
    return _case(draw_int(1, 4000), draw_int(0, 10) / 10)(make)


def _benchmark(lengths: list[int]) -> Case:
    def make_inputs(make: SampleMaker) -> Inputs:
        n = flat_table(lengths).length
        ema, master = (large_normal(make, n, dtype=torch.float32) for _ in range(2))
        return {"ema": ema, "master": master, "scalars": flat_scalars(lr=0.1, ema_decay=0.999, device=make.device)}

    return make_inputs


def _reference(ema: Tensor, master: Tensor, scalars: Tensor) -> None:
    """The formula with the decay in fp64."""
    decay = scalars[FlatScalar.EMA_DECAY]
    ema.copy_(ema * decay + master * (1 - decay))


def _eager(ema: Tensor, master: Tensor, scalars: Tensor) -> None:
    torch._foreach_lerp_([ema], [master], 0.001)


def _compile_cases() -> dict[str, Case]:
    return {"even": _case(1 << 20, 0.9)}


SPEC = flat_spec(
    "flat_ema",
    summary="exponential moving average of a flat buffer, its decay in device memory",
    replaces="torch.optim.swa_utils.AveragedModel",
    function=flat_ema,
    reference=_reference,
    eager=_eager,
    op_arguments=lambda inputs: (inputs["ema"], inputs["master"], inputs["scalars"]),
    mutates=("ema",),
    cases={
        "even": _case(2048, 0.9),
        "odd": _case(1500, 0.999),
        "one element": _case(1, 0.5),
        "decay 0": _case(1100, 0.0),
        "decay 1": _case(1100, 1.0),
    },
    random_case=_random,
    benchmark_cases={
        "WRN-16-8": _benchmark(wrn16_8_lengths()),
        "PyramidNet-110": _benchmark(pyramidnet110_lengths()),
    },
    flops=lambda inputs: 3 * inputs["master"].shape[0],
    bytes_moved=lambda inputs: 2 * inputs["ema"].nbytes + inputs["master"].nbytes,
    compile_cases=_compile_cases,
)
