"""The optimizers by name: one function each, over the one op.

All of them do, for every element of the flat buffers, in one pass:

    g = grad · GRAD_SCALE · CLIP + 2 · l2 · w [+ weight_decay · w where the decay is coupled]
    w, state = the rule's update with learning rate LR · lr_scale
    ema = EMA_DECAY · ema + (1 − EMA_DECAY) · w
    copy = w in the compute precision

lr_scale, weight_decay and l2 are the segment's (``flat_table``); names in capitals are ``FlatScalar``s in device
memory. A segment with lr_scale 0 keeps weights and state bit for bit. Without ``ema`` or ``copy`` that line is left
out.

Shapes: master, states and ema are [P] fp32; grad is [P] fp32, bf16 or fp16; copy is [P] fp32, bf16 or fp16. States are
zero before the first step. With an fp64 master everything may be fp64, in plain torch. Nothing waits for the device,
so a step can be captured in a CUDA graph. The same inputs give the same bits. Every function raises ValueError, with
the argument's name, for buffers or settings that do not fit.
"""

from torch import Tensor

from ...arguments import names_misfits
from ..checks import check_share
from ..table import FlatTable
from .op import flat_optimizer
from .rule import Buffers, Rule

_BETAS = (0.9, 0.999)


@names_misfits
def flat_sgd_step(
    master: Tensor,
    grad: Tensor,
    momentum_buffer: Tensor | None,
    table: FlatTable,
    scalars: Tensor,
    ema: Tensor | None = None,
    copy: Tensor | None = None,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    decoupled: bool = False,
) -> None:
    """SGD: ``b ← momentum·b + g``, ``w ← w − lr·b``; Nesterov ``w ← w − lr·(g + momentum·b)``. As ``torch.optim.SGD``.

    ``decoupled`` takes lr·weight_decay·w from the weights instead of adding to g (SGDW, Loshchilov & Hutter 2019). The
    buffer is None exactly where momentum is 0. Shapes, dtypes and errors: see this module's docstring.
    Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep learning", ICML 2013.
    """
    check_share("momentum", momentum)
    _check_momentum_buffer(momentum_buffer, momentum)
    if nesterov and not momentum:
        raise ValueError("nesterov needs a momentum above 0")
    rule = Rule("sgd", float(momentum), nesterov=nesterov, decoupled=decoupled)
    buffers = Buffers(master, grad, momentum_buffer, None, ema, copy)
    flat_optimizer(rule, buffers, table, scalars, ("momentum_buffer", ""))


@names_misfits
def flat_adam_step(
    master: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    table: FlatTable,
    scalars: Tensor,
    ema: Tensor | None = None,
    copy: Tensor | None = None,
    *,
    betas: tuple[float, float] = _BETAS,
    eps: float = 1e-8,
    decoupled: bool = False,
) -> None:
    """Adam: ``m ← β₁m + (1−β₁)g``, ``v ← β₂v + (1−β₂)g²``, ``w ← w − lr/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + eps)``.

    As ``torch.optim.Adam``, with ``decoupled`` as ``torch.optim.AdamW`` (``flat_adamw_step``). Shapes, dtypes and
    errors: see this module's docstring. Kingma & Ba, "Adam", ICLR 2015.
    """
    _check_betas(betas)
    rule = Rule("adam", float(betas[0]), float(betas[1]), float(eps), decoupled=decoupled)
    buffers = Buffers(master, grad, exp_avg, exp_avg_sq, ema, copy)
    flat_optimizer(rule, buffers, table, scalars, ("exp_avg", "exp_avg_sq"))


@names_misfits
def flat_adamw_step(
    master: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    table: FlatTable,
    scalars: Tensor,
    ema: Tensor | None = None,
    copy: Tensor | None = None,
    *,
    betas: tuple[float, float] = _BETAS,
    eps: float = 1e-8,
) -> None:
    """AdamW: ``w ← w − lr·weight_decay·w``, then Adam's update without decay in g. As ``torch.optim.AdamW``.

    Shapes, dtypes and errors: see this module's docstring.
    Loshchilov & Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """
    flat_adam_step(master, grad, exp_avg, exp_avg_sq, table, scalars, ema, copy, betas=betas, eps=eps, decoupled=True)


@names_misfits
def flat_nadam_step(
    master: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    table: FlatTable,
    scalars: Tensor,
    ema: Tensor | None = None,
    copy: Tensor | None = None,
    *,
    betas: tuple[float, float] = _BETAS,
    eps: float = 1e-8,
    momentum_decay: float = 4e-3,
    decoupled: bool = False,
) -> None:
    """NAdam: Adam's m and v, ``w ← w − lr (μ_{t+1}/(1−Π_{i≤t+1}μ_i) · m + (1−μ_t)/(1−Π_{i≤t}μ_i) · g) / (√v̂ + eps)``.

    ``μ_t = β₁(1 − ½·0.96^(t·momentum_decay))``, ``v̂ = v/(1−β₂ᵗ)``. As ``torch.optim.NAdam``; ``decoupled`` is its
    ``decoupled_weight_decay``. Shapes, dtypes and errors: see this module's docstring.
    Dozat, "Incorporating Nesterov momentum into Adam", 2016.
    """
    _check_betas(betas)
    _check_not_negative("momentum_decay", momentum_decay)
    rule = Rule("nadam", float(betas[0]), float(betas[1]), float(eps), float(momentum_decay), decoupled=decoupled)
    buffers = Buffers(master, grad, exp_avg, exp_avg_sq, ema, copy)
    flat_optimizer(rule, buffers, table, scalars, ("exp_avg", "exp_avg_sq"))


@names_misfits
def flat_adamax_step(
    master: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_inf: Tensor,
    table: FlatTable,
    scalars: Tensor,
    ema: Tensor | None = None,
    copy: Tensor | None = None,
    *,
    betas: tuple[float, float] = _BETAS,
    eps: float = 1e-8,
) -> None:
    """Adamax: ``m ← β₁m + (1−β₁)g``, ``u ← max(β₂u, |g| + eps)``, ``w ← w − lr/(1−β₁ᵗ) · m/u``.

    As ``torch.optim.Adamax``. Shapes, dtypes and errors: see this module's docstring.
    Kingma & Ba, "Adam", ICLR 2015, section 7.
    """
    _check_betas(betas)
    rule = Rule("adamax", float(betas[0]), float(betas[1]), float(eps))
    buffers = Buffers(master, grad, exp_avg, exp_inf, ema, copy)
    flat_optimizer(rule, buffers, table, scalars, ("exp_avg", "exp_inf"))


@names_misfits
def flat_rmsprop_step(
    master: Tensor,
    grad: Tensor,
    square_avg: Tensor,
    momentum_buffer: Tensor | None,
    table: FlatTable,
    scalars: Tensor,
    ema: Tensor | None = None,
    copy: Tensor | None = None,
    *,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
) -> None:
    """RMSprop: ``v ← αv + (1−α)g²``, ``b ← momentum·b + g/(√v + eps)``, ``w ← w − lr·b``. As ``torch.optim.RMSprop``.

    The buffer is None exactly where momentum is 0. Shapes, dtypes and errors: see this module's docstring.
    Tieleman & Hinton, "Lecture 6.5 - rmsprop", 2012.
    """
    check_share("alpha", alpha)
    check_share("momentum", momentum)
    _check_momentum_buffer(momentum_buffer, momentum)
    rule = Rule("rmsprop", float(momentum), float(alpha), float(eps))
    buffers = Buffers(master, grad, momentum_buffer, square_avg, ema, copy)
    flat_optimizer(rule, buffers, table, scalars, ("momentum_buffer", "square_avg"))


@names_misfits
def flat_adagrad_step(
    master: Tensor,
    grad: Tensor,
    state_sum: Tensor,
    table: FlatTable,
    scalars: Tensor,
    ema: Tensor | None = None,
    copy: Tensor | None = None,
    *,
    eps: float = 1e-10,
    lr_decay: float = 0.0,
) -> None:
    """Adagrad: ``s ← s + g²``, ``w ← w − lr/(1 + (t−1)·lr_decay) · g/(√s + eps)``. As ``torch.optim.Adagrad``.

    ``state_sum`` may begin at any value of at least 0. Shapes, dtypes and errors: see this module's docstring.
    Duchi, Hazan, Singer, "Adaptive subgradient methods", JMLR 2011.
    """
    _check_not_negative("lr_decay", lr_decay)
    rule = Rule("adagrad", eps=float(eps), extra=float(lr_decay))
    buffers = Buffers(master, grad, None, state_sum, ema, copy)
    flat_optimizer(rule, buffers, table, scalars, ("", "state_sum"))


def _check_betas(betas: tuple[float, float]) -> None:
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be two numbers in [0, 1), got {betas}")


def _check_momentum_buffer(buffer: Tensor | None, momentum: float) -> None:
    if (buffer is None) != (momentum == 0):
        raise ValueError(f"momentum_buffer must be given exactly where momentum is above 0, momentum is {momentum}")


def _check_not_negative(name: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be finite and at least 0, got {value}")
