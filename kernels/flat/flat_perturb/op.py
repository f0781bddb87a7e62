"""``flat_perturb``: the weights at which SAM and ASAM take the second gradient."""

import torch
from torch import Tensor

from ...arguments import names_misfits
from ...library import operator, runs_on
from ..checks import check_device, check_like, check_master, check_table
from ..flat_norm.op import check_eta
from ..table import FlatTable


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
    if norm.numel() != 1 or norm.dtype != master.dtype:
        raise ValueError(f"norm must be one {master.dtype} number, got {list(norm.shape)} {norm.dtype}")
    check_device("norm", norm, master)
    if not 0 <= rho < float("inf"):
        raise ValueError(f"rho must be finite and at least 0, got {rho}")
    check_eta(eta)
    settings = None if table is None else table.settings
    perturb(copy, master, grad, norm, settings, float(rho), adaptive, float(eta))


# fp64 is told by the master, whose copy may be in half precision
@operator("flat_perturb", mutates=("copy",), runs=lambda op, copy, master, *others: runs_on(op, master), direct=True)
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
