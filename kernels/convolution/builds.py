"""The convolution kernels as they are launched, for compiling them without a GPU."""

from itertools import product
from typing import Any

import torch

from ..testing.spec import KernelBuild
from ..tuning.tables import MODELS, Tile, load
from .tiles import Tiling, fit, kernel_row

_WITHOUT_DESCRIPTORS = ("sm_80",)
_IMAGE = (128, 32, 32)


def convolution_builds(op: str, *, prologue: bool) -> list[KernelBuild]:
    """bf16, 3×3, relu, at every row of the table: stride 1 as it is launched, and stride 2 without descriptors.

    ``prologue`` is whether the op applies BN and activation to its input, else it has statistics of its output.
    """
    return [
        _build(kernel, arch, row, stride=stride, prologue=prologue)
        for arch, row in _rows(op)
        for kernel, stride in product(("fwd", "dgrad", "wgrad"), (1, 2))
    ]


def activation_builds(op: str) -> list[KernelBuild]:
    """Stride 1 at every row with the activations that take the most registers, for an op that has a prologue."""
    kernels = [("fwd", "silu"), ("fwd", "tanh"), ("fwd", "gelu"), ("dgrad", "gelu"), ("wgrad", "silu")]
    return [_build(kernel, arch, row, prologue=True, act=act) for arch, row in _rows(op) for kernel, act in kernels]


def pointwise_and_frozen_builds(op: str) -> list[KernelBuild]:
    """At the widest row of an op that has a prologue: 1×1, and the input's gradient in eval."""
    builds = []
    for arch, row in _rows(op, widest=True):
        builds += [_build(kernel, arch, row, prologue=True, size=1) for kernel in ("fwd", "dgrad", "wgrad")]
        builds += [_build("dgrad", arch, row, prologue=True, act=act, frozen=True) for act in ("relu", "gelu")]
    return builds


def folded_builds(op: str) -> list[KernelBuild]:
    """The forward kernel with a folded BN, stride 1, without and with a residual; gelu at the widest row."""
    builds = [_build("fwd", arch, row, fold=fold) for arch, row in _rows(op) for fold in ("fold", "fold residual")]
    return builds + [_build("fwd", arch, row, fold="fold residual", act="gelu") for arch, row in _rows(op, widest=True)]


def _rows(op: str, *, widest: bool = False) -> list[tuple[str, Tile]]:
    """Architectures and rows of the table of the model that stands for each; with ``widest`` only the last."""
    return [(arch, row) for arch, model in MODELS.items() for row in load(model)[op][-1 if widest else 0 :]]


def _build(
    kernel: str,
    arch: str,
    row: Tile,
    *,
    stride: int = 1,
    prologue: bool = False,
    fold: str = "",
    act: str = "relu",
    size: int = 3,
    frozen: bool = False,
) -> KernelBuild:
    """One kernel on one architecture."""
    from . import triton_dgrad, triton_fwd, triton_wgrad
    from .triton_launch import LEAST_LEFT_CHANNELS

    channels = min(row["up_to"], 512)
    boxes = arch not in _WITHOUT_DESCRIPTORS and (stride == 1 or kernel == "dgrad")
    evaluated = act if prologue or fold else "identity"
    settings = kernel_row(row, kernel)
    tiling = fit(settings, kernel, channels, _IMAGE, torch.bfloat16, descriptors=boxes, act=evaluated)
    right = tiling.channels >= LEAST_LEFT_CHANNELS
    norm = dict.fromkeys(("stats_ptr", "weight_ptr", "bias_ptr"), "*fp32")
    rows = {"partials_ptr": "*fp32", "counters_ptr": "*i32", "first_counter": "i32"}
    taps = size * size
    common = {"STRIDE": stride, "PADDING": size // 2, "ACT": act, "KERNEL_W": size}
    if kernel == "fwd":
        function = triton_fwd.conv_fwd_kernel
        types = _types(tiling, "x_ptr", ("w_ptr", (tiling.channels, tiling.depth)), "y_ptr")
        types |= norm if prologue or fold else {}
        # with a batch norm after it, which is more than moments alone
        running = dict.fromkeys(("y_stats_ptr", "running_mean_ptr", "running_var_ptr"), "*fp32")
        types |= {} if fold else {**rows, **running, "count_ptr": "*i64"}
        types |= {"first_counter": "i32", "momentum": "fp32", "eps": "fp32"}
        types |= {"residual_ptr": "*bf16"} if "residual" in fold else {}
        common |= {"TAPS": taps, "PROLOGUE": prologue, "STATISTICS": not fold, "CUMULATIVE": False, "FOLD": bool(fold)}
        common |= {"PIXELS_RIGHT": right and not prologue, "BLOCK_K": tiling.channels, "BLOCK_C": tiling.depth}
    elif kernel == "dgrad":
        function = triton_dgrad.conv_dgrad_kernel
        types = _types(tiling, "dy_ptr", ("w_ptr", (tiling.depth, tiling.channels)), "dx_ptr")
        sums = dict.fromkeys(("d_bias_ptr", "d_weight_ptr"), "*fp32")
        types |= {"x_ptr": "*bf16", **norm, **rows, **sums} if prologue else {}
        types |= {"first_counter": "i32"}
        common |= {"KERNEL_H": size, "BN": prologue, "FROZEN": frozen}
        common |= {"PIXELS_RIGHT": right, "BLOCK_C": tiling.channels, "BLOCK_K": tiling.depth}
    else:
        function = triton_wgrad.conv_wgrad_kernel
        types = _types(tiling, "x_ptr", ("dy_ptr", (tiling.pixels, tiling.channels)))
        types |= {"partial_ptr": "*fp32", "n_tiles": "i32", "tiles_per_split": "i32", **(norm if prologue else {})}
        common |= {"TAPS": taps, "PROLOGUE": prologue, "BLOCK_C": tiling.depth, "BLOCK_K": tiling.channels}
    common |= dict(zip(("BOX_N", "BOX_H", "BOX_W"), tiling.box, strict=True))
    common |= {"USE_TMA": tiling.descriptors, "PRECISION": "tf32"}
    absent = {name: None for name in function.arg_names if name.endswith("_ptr") and name not in types}
    variant = f" {fold}" if fold else " bn" if prologue else ""
    variant += (f" {act}" if act != "relu" else "") + (" frozen" if frozen else "") + (" 1x1" if size == 1 else "")
    return KernelBuild(
        function,
        f"{channels}{variant} {tiling.pixels}x{tiling.channels}x{tiling.depth} stride {stride}",
        {name: types[name] for name in function.arg_names if name in types},
        {**common, **absent},
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
        max_registers=tiling.max_registers,
        archs=(arch,),
        needs_wgmma=tiling.channels >= LEAST_LEFT_CHANNELS,
    )


def _types(tiling: Tiling, image: str, matrix: tuple[str, tuple[int, int]], *pointers: str) -> dict[str, Any]:
    """Types of the arguments that every kernel has: what it loads tiles from, what it writes, sizes."""
    from .triton_launch import SIZES

    name, block = matrix
    types = dict.fromkeys((image, name, *pointers), "*bf16")
    if tiling.descriptors:
        types[image] = f"tensordesc<bf16{[*tiling.box, tiling.depth]}>"
        types[name] = f"tensordesc<bf16{list(block)}>"
    return {**types, **dict.fromkeys(SIZES, "i32"), "slope": "fp32"}


def small_builds() -> list[KernelBuild]:
    """What runs after the weight's gradient."""
    from . import triton_wgrad

    kernel = triton_wgrad.conv_wgrad_reduce_kernel
    types = {"partial_ptr": "*fp32", "dw_ptr": "*bf16"}
    types |= dict.fromkeys(("channels", "out_channels", "splits"), "i32")
    signature = {name: types[name] for name in kernel.arg_names if name in types}
    return [KernelBuild(kernel, "fp32", signature, {"TAPS": 9, "BLOCK_C": 32, "BLOCK_K": 32})]
