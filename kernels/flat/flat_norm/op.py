"""``flat_norm``: ‖g‖ and ‖(|w| + eta)·g‖ over flat buffers, and clipping by the gradient's norm."""

import torch
from torch import Tensor

from ...arguments import names_misfits
from ...library import operator
from ..checks import check_grad, check_like, check_master, check_scalars, check_table
from ..scalars import FlatScalar
from ..table import FlatTable


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
    result: Tensor = norm(grad, master, None if table is None else table.settings, float(eta))
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


def check_eta(eta: float) -> None:
    """ASAM's eta: finite and at least 0."""
    if not 0 <= eta < float("inf"):
        raise ValueError(f"eta must be finite and at least 0, got {eta}")


@operator("flat_norm", direct=True)
def norm(grad: Tensor, weight: Tensor | None, settings: Tensor | None, eta: float) -> Tensor:
    return grad.new_empty((), dtype=torch.float64 if grad.dtype == torch.float64 else torch.float32)
