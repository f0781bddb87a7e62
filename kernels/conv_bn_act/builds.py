"""The convolution kernels as they are launched, for compiling them without a GPU."""

from itertools import product
from typing import Any

import torch

from ..spec import KernelBuild
from ..tuning import MODELS, load
from .tiles import Tiling, fit, kernel_row

_WITHOUT_DESCRIPTORS = ("sm_80",)
_IMAGE = (128, 32, 32)
_SIZES = ("n_images", "height", "width", "channel_groups", "out_height", "out_width", "out_channel_groups")


def convolution_builds(op: str, *, prologue: bool) -> list[KernelBuild]:
    """bf16, 3×3, relu, at every row of the table: stride 1 as it is launched, and stride 2 without descriptors.

    ``prologue`` is whether the op applies BN and activation to its input, else it has statistics of its output.
    """
    builds = []
    for arch, model in MODELS.items():
        descriptors = arch not in _WITHOUT_DESCRIPTORS
        for row in load(model)[op]:
            channels = min(row["up_to"], 512)
            for kernel, stride in product(("fwd", "dgrad", "wgrad"), (1, 2)):
                boxes = descriptors and (stride == 1 or kernel == "dgrad")
                settings = kernel_row(row, kernel)
                tiling = fit(settings, kernel, channels, _IMAGE, torch.bfloat16, descriptors=boxes)
                builds.append(_build(kernel, arch, channels, tiling, stride, prologue))
    return builds


def folded_builds(op: str) -> list[KernelBuild]:
    """The forward kernel with a folded BN, stride 1, without and with a residual."""
    builds = []
    for arch, model in MODELS.items():
        descriptors = arch not in _WITHOUT_DESCRIPTORS
        for row in load(model)[op]:
            channels = min(row["up_to"], 512)
            tiling = fit(kernel_row(row, "fwd"), "fwd", channels, _IMAGE, torch.bfloat16, descriptors=descriptors)
            builds += [_build("fwd", arch, channels, tiling, 1, False, fold=fold) for fold in ("fold", "fold residual")]
    return builds


def _build(
    kernel: str, arch: str, channels: int, tiling: Tiling, stride: int, prologue: bool, *, fold: str = ""
) -> KernelBuild:
    """One kernel on one architecture."""
    from . import triton_dgrad, triton_fwd, triton_wgrad
    from .triton_launch import LEAST_LEFT_CHANNELS

    right = tiling.channels >= LEAST_LEFT_CHANNELS
    norm = dict.fromkeys(("stats_ptr", "weight_ptr", "bias_ptr"), "*fp32")
    rows = {"partials_ptr": "*fp32", "counters_ptr": "*i32", "first_counter": "i32"}
    common = {"STRIDE": stride, "PADDING": 1, "ACT": "relu", "KERNEL_W": 3}
    if kernel == "fwd":
        function = triton_fwd.conv_fwd_kernel
        types = _types(tiling, "x_ptr", ("w_ptr", (tiling.channels, tiling.depth)), "y_ptr")
        types |= norm if prologue or fold else {}
        types |= {} if fold else {**rows, "moments_ptr": "*fp32", **({} if prologue else {"y_stats_ptr": "*fp32"})}
        types |= {"first_counter": "i32", "eps": "fp32"}
        types |= {"residual_ptr": "*bf16"} if "residual" in fold else {}
        common |= {"TAPS": 9, "PROLOGUE": prologue, "STATISTICS": not fold, "FOLD": bool(fold)}
        common |= {"PIXELS_RIGHT": right and not prologue, "BLOCK_K": tiling.channels, "BLOCK_C": tiling.depth}
    elif kernel == "dgrad":
        function = triton_dgrad.conv_dgrad_kernel
        types = _types(tiling, "dy_ptr", ("w_ptr", (tiling.depth, tiling.channels)), "dx_ptr")
        sums = dict.fromkeys(("d_bias_ptr", "d_weight_ptr"), "*fp32")
        types |= {"x_ptr": "*bf16", **norm, **rows, **sums} if prologue else {}
        types |= {"first_counter": "i32"}
        common |= {"KERNEL_H": 3, "BN": prologue, "FROZEN": False}
        common |= {"PIXELS_RIGHT": right, "BLOCK_C": tiling.channels, "BLOCK_K": tiling.depth}
    else:
        function = triton_wgrad.conv_wgrad_kernel
        types = _types(tiling, "x_ptr", ("dy_ptr", (tiling.pixels, tiling.channels)))
        types |= {"partial_ptr": "*fp32", "n_tiles": "i32", "tiles_per_split": "i32", **(norm if prologue else {})}
        common |= {"TAPS": 9, "PROLOGUE": prologue, "BLOCK_C": tiling.depth, "BLOCK_K": tiling.channels}
    common |= dict(zip(("BOX_N", "BOX_H", "BOX_W"), tiling.box, strict=True))
    common |= {"USE_TMA": tiling.descriptors, "PRECISION": "tf32"}
    absent = {name: None for name in function.arg_names if name.endswith("_ptr") and name not in types}
    variant = f" {fold}" if fold else " bn" if prologue else ""
    return KernelBuild(
        function,
        f"{channels}{variant} {tiling.pixels}x{tiling.channels}x{tiling.depth} stride {stride}",
        {name: types[name] for name in function.arg_names if name in types},
        {**common, **absent},
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
        archs=(arch,),
        needs_wgmma=tiling.channels >= LEAST_LEFT_CHANNELS,
    )


def _types(tiling: Tiling, image: str, matrix: tuple[str, tuple[int, int]], *pointers: str) -> dict[str, Any]:
    """Types of the arguments that every kernel has: what it loads tiles from, what it writes, sizes."""
    name, block = matrix
    types = dict.fromkeys((image, name, *pointers), "*bf16")
    if tiling.descriptors:
        types[image] = f"tensordesc<bf16{[*tiling.box, tiling.depth]}>"
        types[name] = f"tensordesc<bf16{list(block)}>"
    return {**types, **dict.fromkeys(_SIZES, "i32"), "slope": "fp32"}


def small_builds() -> list[KernelBuild]:
    """What runs around the convolutions."""
    from . import triton_impl, triton_reduce, triton_wgrad

    buffers = dict.fromkeys(("moments_ptr", "stats_ptr", "running_mean_ptr", "running_var_ptr", "partial_ptr"), "*fp32")
    buffers |= {"count_ptr": "*i64"}
    types = {**buffers, "dw_ptr": "*bf16", **dict.fromkeys(("channels", "out_channels", "splits"), "i32")}
    types |= dict.fromkeys(("momentum", "eps", "unbias"), "fp32")
    running = {"HAS_RUNNING": True, "HAS_COUNT": True, "CUMULATIVE": False, "BLOCK_C": triton_impl.BLOCK_CHANNELS}
    launches: list[tuple[Any, dict[str, Any]]] = [
        (triton_reduce.conv_running_kernel, running),
        (triton_wgrad.conv_wgrad_reduce_kernel, {"TAPS": 9, "BLOCK_C": 32, "BLOCK_K": 32}),
    ]
    return [
        KernelBuild(kernel, "fp32", {name: types[name] for name in kernel.arg_names if name in types}, constexprs)
        for kernel, constexprs in launches
    ]
