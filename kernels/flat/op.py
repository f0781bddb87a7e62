"""The small ops over flat buffers: averages of the weights, norms, clipping, and the weights that SAM perturbs."""

import torch
from torch import Tensor

from ..arguments import names_misfits
from ..library import operator, runs_on
from .checks import check_device, check_eta, check_grad, check_like, check_master, check_scalars, check_table
from .scalars import FlatScalar
from .table import FlatTable, settings_of


@torch.no_grad()
@names_misfits
def flat_ema(ema: Tensor, master: Tensor, scalars: Tensor) -> None:
    """``ema ← d·ema + (1 − d)·w`` in place, computed as ``ema + (1 − d)(w − ema)``; d is the scalar ``EMA_DECAY``.

    Exact for d = 0 (ema = w), d = 1 (unchanged) and ema = w. The optimizer steps do the same with their ``ema``; this
    is for other buffers, such as running statistics, and for averages that move less often than the weights.

    Args:
        ema: [P] of the dtype of ``master``.
        master: [P] fp32 (fp64: plain torch); only read.
        scalars: made by ``flat_scalars``.

    Raises:
        ValueError: a length, dtype, layout or device that does not fit.

    Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992.
    """
    check_master("master", master)
    check_like("ema", ema, master)
    check_scalars(scalars, master)
    average(ema, master, scalars)


@operator("flat_ema", op="flat_ema", mutates=("ema",), direct=True)
def average(ema: Tensor, master: Tensor, scalars: Tensor) -> None:
    return None


@torch.no_grad()
@names_misfits
def flat_lookahead(
    master: Tensor, slow: Tensor, scalars: Tensor, copy: Tensor | None = None, *, alpha: float = 0.5, every: int = 5
) -> None:
    """``slow ← slow + alpha·(w − slow)``, ``w ← slow``, after every ``every``-th step; call it after each step.

    Whether it is due is read from the scalar ``STEP`` on the device, so one captured graph does for all steps. A step
    that was skipped (``SKIP``) is no step.

    Args:
        master: [P] fast weights, fp32 (fp64: plain torch).
        slow: [P] of the dtype of ``master``; a clone of the weights before the first step.
        scalars: made by ``flat_scalars`` and advanced by the step before.
        copy: [P] fp32, bf16, fp16 or None; gets the weights where they change.
        alpha: the slow weights' step, in [0, 1].
        every: fast steps for one slow step, at least 1.

    Raises:
        ValueError: a length, dtype, layout, device or setting that does not fit.

    Zhang, Lucas, Hinton, Ba, "Lookahead optimizer: k steps forward, 1 step back", NeurIPS 2019.
    """
    check_master("master", master)
    check_like("slow", slow, master)
    check_like("copy", copy, master, half=True, optional=True)
    check_scalars(scalars, master)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    pull_back(master, slow, scalars, copy, float(alpha), every)


@operator("flat_lookahead", op="flat_lookahead", mutates=("master", "slow", "copy"), direct=True)
def pull_back(master: Tensor, slow: Tensor, scalars: Tensor, copy: Tensor | None, alpha: float, every: int) -> None:
    return None


@torch.no_grad()
def flat_norm(
    grad: Tensor, master: Tensor | None = None, table: FlatTable | None = None, *, eta: float = 0.0
) -> Tensor:
    """``‖g‖₂``, or with ``master`` ``‖(|w| + eta)·g‖₂``; see ``flat_grad_norm`` and ``flat_asam_norm``."""
    check_grad("grad", grad)
    if master is not None:
        check_master("master", master)
        check_like("grad", grad, master, half=True)
    check_table(table, grad)
    check_eta(eta)
    result: Tensor = norm(grad, master, settings_of(table), float(eta))
    return result


@names_misfits
def flat_grad_norm(grad: Tensor, table: FlatTable | None = None) -> Tensor:
    """The gradient's global 2-norm ``‖g‖ = √Σ g²``.

    Args:
        grad: [P] fp32, bf16, fp16 (fp64: plain torch). A loss scale in it is also in the norm.
        table: leaves frozen segments (lr_scale 0) out.

    Returns:
        [] fp32 (fp64 for fp64), on the device. Summed in a fixed order.

    Raises:
        ValueError: a length, dtype, layout or device that does not fit.
    """
    return flat_norm(grad, None, table)


@names_misfits
def flat_asam_norm(master: Tensor, grad: Tensor, table: FlatTable | None = None, *, eta: float = 0.0) -> Tensor:
    """ASAM's norm ``‖(|w| + eta)·g‖ = √Σ ((|w| + eta) g)²`` over all parameters.

    Args:
        master: [P] weights, fp32 (fp64: plain torch).
        grad: [P] fp32, bf16 or fp16.
        table: leaves frozen segments (lr_scale 0) out.
        eta: added to |w|, at least 0.

    Returns:
        [] fp32 (fp64 for fp64), on the device. Summed in a fixed order.

    Raises:
        ValueError: a length, dtype, layout, device or eta that does not fit.

    Kwon, Kim, Park, Choi, "ASAM: adaptive sharpness-aware minimization for scale-invariant learning of deep neural
    networks", ICML 2021.
    """
    return flat_norm(grad, master, table, eta=eta)


@torch.no_grad()
@names_misfits
def flat_clip(grad: Tensor, scalars: Tensor, max_norm: float, table: FlatTable | None = None) -> Tensor:
    """Make the next step use gradients of a norm of at most ``max_norm``; the gradient buffer is only read.

    ``CLIP ← min(1, max_norm / (‖GRAD_SCALE·g‖ + 1e-6))``, as ``torch.nn.utils.clip_grad_norm_``: a norm that is not
    finite makes the factor 0 or NaN.

    Args:
        grad: [P] fp32, bf16, fp16 (fp64: plain torch).
        scalars: made by ``flat_scalars``; its ``CLIP`` is written.
        max_norm: above 0.
        table: leaves frozen segments (lr_scale 0) out.

    Returns:
        [] the norm ‖GRAD_SCALE·g‖ before clipping, fp32 (fp64 for fp64), on the device.

    Raises:
        ValueError: a length, dtype, layout, device or max_norm that does not fit.
    """
    check_grad("grad", grad)
    check_scalars(scalars, grad)
    if not max_norm > 0:
        raise ValueError(f"max_norm must be above 0, got {max_norm}")
    total_norm = flat_norm(grad, None, table)
    total_norm *= scalars[FlatScalar.GRAD_SCALE].abs()
    scalars[FlatScalar.CLIP] = (float(max_norm) / (total_norm + 1e-6)).clamp(max=1.0)
    return total_norm


@operator("flat_norm", op="flat_norm", direct=True)
def norm(grad: Tensor, weight: Tensor | None, settings: Tensor | None, eta: float) -> Tensor:
    return grad.new_empty((), dtype=torch.float64 if grad.dtype == torch.float64 else torch.float32)


@torch.no_grad()
@names_misfits
def flat_perturb(
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
    """Write the perturbed weights ``w + e`` into the compute copy; master and gradient are only read.

    SAM: ``e = rho·g / (‖g‖ + 1e-12)``. ASAM (``adaptive``): ``e = rho·(|w| + eta)²·g / (‖(|w| + eta)·g‖ + 1e-12)``,
    which with eta = 0 is ``w²·g·rho / ‖|w|·g‖``. A loss scale in the gradient cancels if it is in the norm too. The
    next optimizer step reads the master and writes the copy, so nothing has to be restored.

    Args:
        copy: [P] fp32, bf16 or fp16; overwritten.
        master: [P] weights, fp32 (fp64: plain torch).
        grad: [P] fp32, bf16 or fp16.
        norm: [] or [1], ``flat_grad_norm(grad)`` or ``flat_asam_norm(master, grad)``, with the same table and eta.
        table: frozen segments (lr_scale 0) get the weights unperturbed.
        rho: radius, at least 0.
        adaptive: ASAM instead of SAM.
        eta: added to |w|, at least 0.

    Raises:
        ValueError: a length, dtype, layout, device, rho or eta that does not fit.

    Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-aware minimization for efficiently improving generalization", ICLR
    2021; Kwon, Kim, Park, Choi, "ASAM", ICML 2021.
    """
    check_master("master", master)
    check_like("copy", copy, master, half=True)
    check_like("grad", grad, master, half=True)
    check_table(table, master)
    if norm.numel() != 1 or norm.dtype != master.dtype or norm.layout != torch.strided:
        found = f"{list(norm.shape)} {norm.dtype} {norm.layout}"
        raise ValueError(f"norm must be one {master.dtype} number in a dense tensor, got {found}")
    check_device("norm", norm, master)
    if not 0 <= rho < float("inf"):
        raise ValueError(f"rho must be finite and at least 0, got {rho}")
    check_eta(eta)
    perturb(copy, master, grad, norm, settings_of(table), float(rho), adaptive, float(eta))


# fp64 is told by the master, whose copy may be in half precision
@operator(
    "flat_perturb",
    op="flat_perturb",
    mutates=("copy",),
    runs=lambda op, copy, master, *others: runs_on(op, master),
    direct=True,
)
def perturb(
    copy: Tensor,
    master: Tensor,
    grad: Tensor,
    norm: Tensor,
    settings: Tensor | None,
    rho: float,
    adaptive: bool,
    eta: float,
) -> None:
    return None
