"""The descriptions of the small ops over flat buffers for tests, benchmarks, compile report and docs."""

from typing import Any

import torch
from torch import Tensor

from ..testing.spec import Case, Inputs, SampleMaker, in_fp32
from . import op
from .sample_inputs import (
    PERIOD,
    enlarged,
    flat_spec,
    master_dtype,
    random_table,
    sample_table,
    segments,
    where_active,
)
from .scalars import FlatScalar, flat_scalars
from .sizes import pyramidnet110_lengths, wrn16_8_lengths
from .table import FlatTable, settings_of
from .torch_impl import NORM_EPS

_COMPILED = 1 << 20
_NETWORKS = {"WRN-16-8": wrn16_8_lengths(), "PyramidNet-110": pyramidnet110_lengths()}


def _timed(case: Case, network: str) -> Case:
    """The same with buffers as long as a network's."""
    return lambda make: enlarged(case(make), sample_table(make, _NETWORKS[network]))


def _for_networks(case: Case) -> dict[str, Case]:
    return {network: _timed(case, network) for network in _NETWORKS}


def _ema(n: int, decay: float) -> Case:
    def make_inputs(make: SampleMaker) -> Inputs:
        dtype = master_dtype(make)
        scalars = flat_scalars(lr=0.1, ema_decay=decay, device=make.device)
        return {"ema": make.randn(n, dtype=dtype), "master": make.randn(n, dtype=dtype), "scalars": scalars}

    return make_inputs


def _random_ema(make: SampleMaker, draw_int: Any) -> Inputs:
    return _ema(draw_int(1, 4000), draw_int(0, 10) / 10)(make)


def _ema_reference(ema: Tensor, master: Tensor, scalars: Tensor) -> None:
    """The formula with the decay in fp64."""
    decay = scalars[FlatScalar.EMA_DECAY]
    ema.copy_(ema * decay + master * (1 - decay))


def _ema_eager(ema: Tensor, master: Tensor, scalars: Tensor) -> None:
    torch._foreach_lerp_([ema], [master], 0.001)


EMA = flat_spec(
    "flat_ema",
    summary="exponential moving average of a flat buffer, its decay in device memory",
    replaces="torch.optim.swa_utils.AveragedModel",
    function=op.flat_ema,
    reference=_ema_reference,
    eager=_ema_eager,
    op_arguments=lambda inputs: (inputs["ema"], inputs["master"], inputs["scalars"]),
    mutates=("ema",),
    cases={
        "even": _ema(2048, 0.9),
        "odd": _ema(1500, 0.999),
        "one element": _ema(1, 0.5),
        "decay 0": _ema(1100, 0.0),
        "decay 1": _ema(1100, 1.0),
    },
    random_case=_random_ema,
    benchmark_cases=_for_networks(_ema(PERIOD, 0.999)),
    flops=lambda inputs: 3 * inputs["master"].shape[0],
    bytes_moved=lambda inputs: 2 * inputs["ema"].nbytes + inputs["master"].nbytes,
    compile_cases=lambda: {"even": _ema(_COMPILED, 0.9)},
)


def _lookahead(n: int, step: int, *, copy: bool = True, **settings: Any) -> Case:
    def make_inputs(make: SampleMaker) -> Inputs:
        dtype = master_dtype(make)
        scalars = flat_scalars(lr=0.1, device=make.device)
        scalars[FlatScalar.STEP] = step
        master, slow = make.randn(n, dtype=dtype), make.randn(n, dtype=dtype)
        copied = master.to(make.dtype, copy=True) if copy else None
        return {"master": master, "slow": slow, "scalars": scalars, "copy": copied, **settings}

    return make_inputs


def _random_lookahead(make: SampleMaker, draw_int: Any) -> Inputs:
    settings = {"alpha": draw_int(0, 10) / 10, "every": draw_int(1, 6)}
    return _lookahead(draw_int(1, 4000), draw_int(1, 20), copy=draw_int(0, 1) == 1, **settings)(make)


def _lookahead_reference(
    master: Tensor, slow: Tensor, scalars: Tensor, copy: Tensor | None = None, *, alpha: float = 0.5, every: int = 5
) -> None:
    """The formula, with the step read by the host."""
    if int(scalars[FlatScalar.STEP]) % every == 0 and not scalars[FlatScalar.SKIP]:
        slow.copy_(slow * (1 - alpha) + master * alpha)
        master.copy_(slow)
        if copy is not None:
            copy.copy_(slow)


def _lookahead_eager(master: Tensor, slow: Tensor, scalars: Tensor, copy: Tensor) -> None:
    torch._foreach_lerp_([slow], [master], 0.5)
    torch._foreach_copy_([master], [slow])
    torch._foreach_copy_([copy], [slow])


def _lookahead_bytes(inputs: Inputs) -> int:
    copy = 0 if inputs["copy"] is None else inputs["copy"].nbytes
    return 2 * (inputs["master"].nbytes + inputs["slow"].nbytes) + copy


LOOKAHEAD = flat_spec(
    "flat_lookahead",
    summary="lookahead's slow weights over a flat buffer, due by the step counter in device memory",
    replaces="Lookahead (no torch function)",
    function=op.flat_lookahead,
    reference=_lookahead_reference,
    eager=_lookahead_eager,
    op_arguments=lambda inputs: (
        *(inputs[name] for name in ("master", "slow", "scalars", "copy")),
        inputs.get("alpha", 0.5),
        inputs.get("every", 5),
    ),
    mutates=("master", "slow", "copy"),
    cases={
        "due": _lookahead(2048, 10),
        "not due": _lookahead(1500, 11),
        "odd": _lookahead(1500, 12, every=3, alpha=0.8),
        "one element": _lookahead(1, 5, copy=False),
    },
    random_case=_random_lookahead,
    benchmark_cases=_for_networks(_lookahead(PERIOD, 5)),
    flops=lambda inputs: 3 * inputs["master"].shape[0],
    bytes_moved=_lookahead_bytes,
    compile_cases=lambda: {"copy": _lookahead(_COMPILED, 5)},
)


def _gradient(
    make: SampleMaker, n: int, lengths: list[int] | None = None, lr_scale: list[float] | float = 1.0
) -> Inputs:
    """Weights, their gradient and, for given lengths, the table of the segments."""
    table = None if lengths is None else sample_table(make, lengths, lr_scale)
    return {"master": make.randn(n, dtype=master_dtype(make)), "grad": make.randn(n), "table": table}


def _norm(n: int, *, asam: bool = False, eta: float = 0.0, **segmented: Any) -> Case:
    def make_inputs(make: SampleMaker) -> Inputs:
        inputs = _gradient(make, n, **segmented)
        return {**inputs, "master": inputs["master"] if asam else None, "eta": eta}

    return make_inputs


def _random_norm(make: SampleMaker, draw_int: Any) -> Inputs:
    return _norm(**random_table(make, draw_int), asam=draw_int(0, 1) == 1, eta=draw_int(0, 2) / 10)(make)


def _norm_reference(grad: Tensor, master: Tensor | None, table: FlatTable | None, eta: float) -> Tensor:
    """The norm in fp64, rounded at the end."""
    x = grad.double()
    if master is not None:
        x = x * (master.double().abs() + eta)
    dtype = torch.float64 if grad.dtype == torch.float64 else torch.float32
    return where_active(x, table).square().sum().sqrt().to(dtype)


def _norm_eager(grad: Tensor, master: Tensor | None, table: FlatTable, eta: float) -> Tensor:
    """Norms of the parameters one by one with torch's foreach, then the norm of those; eta is 0."""
    x = segments(grad, table)
    if master is not None:
        weights = torch._foreach_abs(segments(master, table))
        x = list(torch._foreach_mul(weights, segments(grad.to(master.dtype), table)))
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(x)))


NORM = flat_spec(
    "flat_norm",
    summary="global gradient norm, and ASAM's ‖(abs(w) + eta)·g‖, over a flat buffer in a fixed order",
    replaces="torch.nn.utils.get_total_norm",
    function=op.flat_norm,
    reference=_norm_reference,
    eager=_norm_eager,
    op_arguments=lambda inputs: (inputs["grad"], inputs["master"], settings_of(inputs["table"]), inputs["eta"]),
    cases={
        "gradient": _norm(3000),
        "asam": _norm(2048, asam=True),
        "eta": _norm(1500, asam=True, eta=0.1),
        "one element": _norm(1, asam=True),
        "frozen": _norm(5 * 1024, lengths=[1000, 1500, 900, 1], lr_scale=[1.0, 0.0, 0.5, 1.0]),
        "frozen asam, odd": _norm(4 * 1024 + 3, lengths=[1000, 1500, 900, 7], lr_scale=[0.0, 1.0, 0.0, 2.0], asam=True),
        "long": _norm(11 * 1024 + 5),
    },
    random_case=_random_norm,
    benchmark_cases={
        "gradient, WRN-16-8": _timed(_norm(PERIOD), "WRN-16-8"),
        **{f"ASAM, {name}": case for name, case in _for_networks(_norm(PERIOD, asam=True)).items()},
    },
    flops=lambda inputs: inputs["grad"].shape[0] * (2 if inputs["master"] is None else 5),
    bytes_moved=lambda inputs: inputs["grad"].nbytes + (0 if inputs["master"] is None else inputs["master"].nbytes),
    compile_cases=lambda: {
        "gradient": _norm(_COMPILED),
        "fp32 gradient, frozen": in_fp32(_norm(_COMPILED, lengths=[_COMPILED])),
        "ASAM, frozen": _norm(_COMPILED, lengths=[_COMPILED], asam=True),
    },
)


def _perturbed(n: int, *, adaptive: bool = False, eta: float = 0.0, **segmented: Any) -> Case:
    """With the norm that belongs to weights and gradient, and a copy full of NaN."""

    def make_inputs(make: SampleMaker) -> Inputs:
        inputs = _gradient(make, n, **segmented)
        master = inputs["master"]
        norm = op.flat_norm(inputs["grad"], master if adaptive else None, inputs["table"], eta=eta).to(master.dtype)
        copy = torch.full_like(master, torch.nan, dtype=make.dtype)
        return {**inputs, "copy": copy, "norm": norm, "rho": 2.0, "adaptive": adaptive, "eta": eta}

    return make_inputs


def _random_perturbed(make: SampleMaker, draw_int: Any) -> Inputs:
    return _perturbed(**random_table(make, draw_int), adaptive=draw_int(0, 1) == 1, eta=draw_int(0, 2) / 10)(make)


def _perturb_reference(
    master: Tensor, grad: Tensor, table: FlatTable | None, copy: Tensor, norm: Tensor, **settings: Any
) -> None:
    """The formula on whole buffers."""
    t = master.abs() + settings["eta"] if settings["adaptive"] else torch.ones_like(master)
    e = settings["rho"] * t.square() * grad.to(master.dtype) / (norm + NORM_EPS)
    copy.copy_(master + where_active(e, table))


def _perturb_eager(master: Tensor, grad: Tensor, table: FlatTable, copy: Tensor, norm: Tensor, **settings: Any) -> None:
    """e and w + e parameter by parameter with torch's foreach, then a foreach copy; eta is 0."""
    weights = segments(master, table)
    e = torch._foreach_mul(segments(grad.to(master.dtype), table), settings["rho"] / (norm + NORM_EPS))
    if settings["adaptive"]:
        torch._foreach_mul_(e, torch._foreach_mul(weights, weights))
    torch._foreach_add_(e, weights)
    torch._foreach_copy_(segments(copy, table), e)


PERTURB = flat_spec(
    "flat_perturb",
    summary="SAM's and ASAM's perturbed weights, from the fp32 master into the compute copy",
    replaces="SAM's first_step and restore (no torch function)",
    function=op.flat_perturb,
    reference=_perturb_reference,
    eager=_perturb_eager,
    op_arguments=lambda inputs: (
        *(inputs[name] for name in ("copy", "master", "grad", "norm")),
        settings_of(inputs["table"]),
        *(inputs[name] for name in ("rho", "adaptive", "eta")),
    ),
    mutates=("copy",),
    cases={
        "asam": _perturbed(2048, adaptive=True),
        "sam": _perturbed(1500),
        "eta": _perturbed(1111, adaptive=True, eta=0.1),
        "one element": _perturbed(1, adaptive=True),
        "frozen": _perturbed(4 * 1024, lengths=[1000, 1500, 900], lr_scale=[1.0, 0.0, 0.5], adaptive=True),
    },
    random_case=_random_perturbed,
    benchmark_cases={
        **{f"ASAM, {name}": case for name, case in _for_networks(_perturbed(PERIOD, adaptive=True)).items()},
        "SAM, WRN-16-8": _timed(_perturbed(PERIOD), "WRN-16-8"),
    },
    flops=lambda inputs: 6 * inputs["master"].shape[0],
    bytes_moved=lambda inputs: sum(inputs[name].nbytes for name in ("copy", "master", "grad")),
    compile_cases=lambda: {
        "ASAM": _perturbed(_COMPILED, lengths=[_COMPILED], adaptive=True),
        "fp32 SAM": in_fp32(_perturbed(_COMPILED, lengths=[_COMPILED])),
    },
)
