"""The description of ``flat_optimizer`` for tests, benchmarks, compile report and docs."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from ...testing.spec import Case, Inputs, SampleMaker, in_fp32
from ..sample_inputs import PERIOD, enlarged, flat_spec, master_dtype, segments
from ..scalars import FlatScalar, flat_scalars
from ..sizes import pyramidnet110_lengths, wrn16_8_lengths
from ..table import FlatTable, flat_table
from . import torch_impl
from .op import flat_optimizer, step
from .rule import Buffers, Rule

_LR = 0.05
_EMA_DECAY = 0.9
_SGD: Inputs = {"name": "sgd", "decay1": 0.9, "nesterov": True}
_ADAM: Inputs = {"name": "adam", "decay1": 0.9, "decay2": 0.999}
_RULES: dict[str, Inputs] = {
    "sgd": {"name": "sgd"},
    "sgd momentum": {"name": "sgd", "decay1": 0.9},
    "sgd nesterov": _SGD,
    "sgd decoupled": {**_SGD, "decoupled": True},
    "adam": _ADAM,
    "adamw": {**_ADAM, "decoupled": True},
    "nadam": {**_ADAM, "name": "nadam", "extra": 4e-3},
    "adamax": {**_ADAM, "name": "adamax"},
    "rmsprop": {"name": "rmsprop", "decay2": 0.99},
    "rmsprop momentum": {"name": "rmsprop", "decay1": 0.9, "decay2": 0.99},
    "adagrad": {"name": "adagrad", "extra": 0.01, "eps": 1e-10},
}


def _case(
    settings: Inputs,
    lengths: list[int],
    *,
    lr_scale: list[float] | float = 1.0,
    missing_tail: int = 0,
    ema: bool = True,
    copy: torch.dtype | None = None,
    skip: bool = False,
    steps: int = 2,
) -> Case:
    """Buffers in the middle of a run, with a bf16, fp16 or fp32 gradient and a copy full of NaN."""

    def make_inputs(make: SampleMaker) -> Inputs:
        decay = [0.01 * (i % 2) for i in range(len(lengths))]
        penalty = [0.002 * (i % 3) for i in range(len(lengths))]
        table = flat_table(lengths, weight_decay=decay, l2=penalty, lr_scale=lr_scale, device=make.device)
        n = table.length - missing_tail
        dtype = master_dtype(make)
        scalars = flat_scalars(lr=_LR, ema_decay=_EMA_DECAY, grad_scale=0.5, device=make.device)
        scalars[FlatScalar.STEP] = steps
        scalars[FlatScalar.MU_PRODUCT] = 0.3
        scalars[FlatScalar.SKIP] = float(skip)
        rule = settings["name"]
        inputs: Inputs = {**settings, "table": table, "scalars": scalars}
        inputs["master"] = make.randn(n, dtype=dtype)
        inputs["grad"] = make.randn(n)
        has_momentum = "decay1" in settings and rule != "adagrad"
        inputs["momentum"] = make.randn(n, scale=0.5, dtype=dtype) if has_momentum else None
        inputs["second_moment"] = None if rule == "sgd" else make.rand(n, dtype=dtype) + 0.1
        inputs["ema"] = make.randn(n, dtype=dtype) if ema else None
        copy_dtype = make.dtype if copy is None or dtype == torch.float64 else copy
        inputs["copy"] = torch.full((n,), torch.nan, dtype=copy_dtype, device=make.device)
        return inputs

    return make_inputs


def _random(make: SampleMaker, draw_int: Any) -> Inputs:
    settings = list(_RULES.values())[draw_int(0, len(_RULES) - 1)]
    lengths = [draw_int(1, 1500) for _ in range(draw_int(1, 4))]
    lr_scale = [draw_int(0, 3) / 2 for _ in lengths]
    tail = draw_int(0, 1023)
    return _case(settings, lengths, lr_scale=lr_scale, missing_tail=tail, skip=draw_int(0, 4) == 0)(make)


def _benchmark(settings: Inputs, lengths: list[int], *, grad_fp32: bool = False) -> Case:
    def make_inputs(make: SampleMaker) -> Inputs:
        table = flat_table(lengths, weight_decay=5e-4, device=make.device)
        inputs = enlarged(_case(settings, [PERIOD])(make), table)
        return {**inputs, "grad": inputs["grad"].float()} if grad_fp32 else inputs

    return make_inputs


def _structured(inputs: Inputs) -> tuple[Buffers, FlatTable, Tensor, Rule]:
    buffers = Buffers(*[inputs[name] for name in ("master", "grad", "momentum", "second_moment", "ema", "copy")])
    settings = {name: value for name, value in inputs.items() if name in Rule.__dataclass_fields__}
    return buffers, inputs["table"], inputs["scalars"], Rule(**settings)


def _step(**inputs: Any) -> None:
    """``flat_optimizer`` with its arguments by name."""
    buffers, table, scalars, rule = _structured(inputs)
    flat_optimizer(rule, buffers, table, scalars)


def _reference(**inputs: Any) -> None:
    """The op in plain torch, without checks."""
    buffers, table, scalars, rule = _structured(inputs)
    torch_impl.flat_optimizer(buffers, table.settings, scalars, rule)


def _eager(**inputs: Any) -> None:
    """torch's fused optimizer over the parameters one by one, foreach EMA, foreach copy."""
    buffers, table, _, rule = _structured(inputs)
    weights, grads = segments(buffers.master, table), segments(buffers.grad.to(buffers.master.dtype), table)
    momenta = segments(buffers.momentum, table)
    if rule.name == "sgd":
        sgd(
            weights, grads, [*momenta], fused=True, lr=_LR, momentum=rule.decay1, nesterov=rule.nesterov,
            weight_decay=5e-4, dampening=0.0, maximize=False,
        )  # fmt: skip
    else:
        steps = [torch.ones((), device=buffers.master.device)] * len(weights)
        adam(
            weights, grads, momenta, segments(buffers.second_moment, table), [], steps, fused=True, amsgrad=False,
            lr=_LR, beta1=rule.decay1, beta2=rule.decay2, eps=1e-8, weight_decay=5e-4, maximize=False,
            decoupled_weight_decay=rule.decoupled,
        )  # fmt: skip
    torch._foreach_lerp_(segments(buffers.ema, table), weights, 1 - _EMA_DECAY)
    torch._foreach_copy_(segments(buffers.copy, table), weights)


def _op_arguments(inputs: Inputs) -> tuple[Any, ...]:
    buffers, table, scalars, rule = _structured(inputs)
    return step.flatten(buffers, table.settings, scalars, rule)


def _flops(inputs: Inputs) -> int:
    """About 12 an element: scaling, decay, moments, division, EMA."""
    return 12 * inputs["master"].shape[0]


def _bytes_moved(inputs: Inputs) -> int:
    """Weights, states and EMA are read and written, the gradient is read, the copy is written."""
    both = (inputs[name].nbytes for name in ("master", "momentum", "second_moment", "ema") if inputs[name] is not None)
    return 2 * sum(both) + inputs["grad"].nbytes + (0 if inputs["copy"] is None else inputs["copy"].nbytes)


_LENGTHS = [700, 1500, 5]


def _compile_cases() -> dict[str, Case]:
    """Every rule with EMA and compute copy, and plain SGD in fp32 without them over a length that needs masks."""
    plain = in_fp32(_case(_RULES["sgd"], [1 << 20], missing_tail=37, ema=False))
    others = {name: settings for name, settings in _RULES.items() if name != "sgd"}
    return {
        "fp32 sgd, masked": lambda make: {**plain(make), "copy": None},
        **{name: _case(settings, [1 << 20]) for name, settings in others.items()},
    }


SPEC = flat_spec(
    "flat_optimizer",
    summary="SGD, Adam, AdamW, NAdam, Adamax, RMSprop, Adagrad with EMA and compute copy, one pass over a flat buffer",
    replaces="torch.optim",
    function=_step,
    reference=_reference,
    eager=_eager,
    op_arguments=_op_arguments,
    mutates=("master", "momentum", "second_moment", "ema", "copy"),
    advances=("scalars",),
    cases={
        **{name: _case(settings, _LENGTHS) for name, settings in _RULES.items()},
        "odd length": _case(_SGD, _LENGTHS, missing_tail=37),
        "one element": _case(_ADAM, [1], missing_tail=1023),
        "frozen": _case(_ADAM, _LENGTHS, lr_scale=[1.0, 0.0, 0.3]),
        "skipped": _case(_RULES["nadam"], _LENGTHS, skip=True),
        "first step": _case(_ADAM, [40], steps=0, ema=False, copy=torch.float32),
    },
    random_case=_random,
    benchmark_cases={
        "SGD, WRN-16-8": _benchmark(_SGD, wrn16_8_lengths()),
        "SGD, WRN-16-8, fp32 gradient": _benchmark(_SGD, wrn16_8_lengths(), grad_fp32=True),
        "SGD, PyramidNet-110": _benchmark(_SGD, pyramidnet110_lengths()),
        "AdamW, WRN-16-8": _benchmark(_RULES["adamw"], wrn16_8_lengths()),
    },
    flops=_flops,
    bytes_moved=_bytes_moved,
    compile_cases=_compile_cases,
)
