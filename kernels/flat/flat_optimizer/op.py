"""``flat_optimizer``: the torch op behind all flat steps, its checks and the choice of its implementation.

One op with the rule as an argument: all rules read a gradient, a master weight and at most two states, and share what
is before the rule (loss scale, clipping, weight decay) and after it (EMA, compute copy).
"""

import torch
from torch import Tensor

from ... import backend
from ..checks import check_like, check_master, check_scalars, check_share, check_table
from ..table import FlatTable
from . import torch_impl

_OP = "flat_optimizer"
# which of momentum and second moment a rule cannot do without
_NEEDED = {
    "sgd": (False, False),
    "adam": (True, True),
    "nadam": (True, True),
    "adamax": (True, True),
    "rmsprop": (False, True),
    "adagrad": (False, True),
}

backend.register(_OP, "triton", "torch", package=__package__)


@torch.no_grad()
def flat_optimizer(
    rule: str,
    master: Tensor,
    grad: Tensor,
    momentum: Tensor | None,
    second_moment: Tensor | None,
    table: FlatTable,
    scalars: Tensor,
    ema: Tensor | None = None,
    copy: Tensor | None = None,
    *,
    decay1: float = 0.0,
    decay2: float = 0.0,
    eps: float = 1e-8,
    extra: float = 0.0,
    nesterov: bool = False,
    decoupled: bool = False,
    state_names: tuple[str, str] = ("momentum", "second_moment"),
) -> None:
    """One step of the rule named, in place; ``flat_sgd_step`` and its siblings call this with their own names.

    Args:
        rule: ``sgd``, ``adam``, ``nadam``, ``adamax``, ``rmsprop`` or ``adagrad``; see ``reference.update``.
        master: [P] weights, fp32 (fp64: plain torch).
        grad: [P] fp32, bf16 or fp16.
        momentum, second_moment: [P] fp32, None where the rule has none. All states begin at zero.
        table: of the segments.
        scalars: made by ``flat_scalars``; this step counts itself there.
        ema: [P] fp32 or None; moves by ``EMA_DECAY`` towards the new weights.
        copy: [P] in any dtype of the weights or half precision, or None; gets the new weights, rounded.
        decay1, decay2: decay of the momentum and of the second moment.
        eps: above 0, so that zero padding stays zero.
        extra: NAdam's momentum_decay or Adagrad's lr_decay.
        nesterov: look ahead along the momentum (sgd).
        decoupled: weight decay shrinks the weights by lr·weight_decay (AdamW) instead of adding to the gradient.
        state_names: what errors call the two states.

    Raises:
        ValueError: a length, dtype, device or setting that does not fit.
    """
    check_master("master", master)
    for name, tensor in ((state_names[0], momentum), (state_names[1], second_moment), ("ema", ema)):
        check_like(name, tensor, master, optional=True)
    check_like("grad", grad, master, half=True)
    check_like("copy", copy, master, half=True, optional=True)
    check_table(table, master)
    check_scalars(scalars, master)
    _check_settings(rule, decay1, decay2, eps, extra)
    for name, state, needed in zip(state_names, (momentum, second_moment), _NEEDED[rule], strict=True):
        if state is None and needed:
            raise ValueError(f"{name} must be a buffer for {rule}, got None")
    arguments = (
        rule, master, grad, momentum, second_moment, table.settings, scalars, ema, copy,
        float(decay1), float(decay2), float(eps), float(extra), nesterov, decoupled,
    )  # fmt: skip
    if not torch.compiler.is_compiling() and type(master) is Tensor and _runs_torch(master) and master.is_cpu:
        torch_impl.flat_optimizer(*arguments)  # the dispatch of a custom op costs more than a small model's step
    else:
        torch.ops.cifarfast.flat_optimizer(*arguments)


def _runs_torch(master: Tensor) -> bool:
    return master.dtype == torch.float64 or backend.choose(_OP, master.device).backend == "torch"


def _check_settings(rule: str, decay1: float, decay2: float, eps: float, extra: float) -> None:
    if rule not in _NEEDED:
        raise ValueError(f"rule must be one of {', '.join(_NEEDED)}, got {rule!r}")
    check_share("decay1", decay1)
    check_share("decay2", decay2)
    if not 0 < eps < float("inf"):
        raise ValueError(f"eps must be finite and above 0, got {eps}")
    if not 0 <= extra < float("inf"):
        raise ValueError(f"extra must be finite and at least 0, got {extra}")


@torch.library.custom_op(
    "cifarfast::flat_optimizer",
    mutates_args=("master", "momentum", "second_moment", "scalars", "ema", "copy"),
)
def _flat_optimizer(
    rule: str,
    master: Tensor,
    grad: Tensor,
    momentum: Tensor | None,
    second_moment: Tensor | None,
    settings: Tensor,
    scalars: Tensor,
    ema: Tensor | None,
    copy: Tensor | None,
    decay1: float,
    decay2: float,
    eps: float,
    extra: float,
    nesterov: bool,
    decoupled: bool,
) -> None:
    if _runs_torch(master):
        step = torch_impl.flat_optimizer
    else:
        from . import triton_impl  # not at the top: it needs triton

        step = triton_impl.flat_optimizer
    step(
        rule, master, grad, momentum, second_moment, settings, scalars, ema, copy,
        decay1, decay2, eps, extra, nesterov, decoupled,
    )  # fmt: skip


@_flat_optimizer.register_fake
def _flat_optimizer_fake(
    rule: str,
    master: Tensor,
    grad: Tensor,
    momentum: Tensor | None,
    second_moment: Tensor | None,
    settings: Tensor,
    scalars: Tensor,
    ema: Tensor | None,
    copy: Tensor | None,
    decay1: float,
    decay2: float,
    eps: float,
    extra: float,
    nesterov: bool,
    decoupled: bool,
) -> None:
    return None
