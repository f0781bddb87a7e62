"""How the kernels of the ops that start with a batch norm are launched, for compiling them without a GPU."""

from collections.abc import Mapping
from typing import Any

from ..testing.spec import KernelBuild

_INTEGERS = (
    "n_rows",
    "n_groups",
    "rows_per_program",
    "n_chunks",
    "pixels",
    "height",
    "width",
    "other_groups",
    "first_counter",
    "channels",
    "draw_stream",
    "threshold",
)
_FLOATS = ("momentum", "eps", "negative_slope", "keep_scale")
_DROPPING = ("seed_ptr", "step_ptr", "indices_ptr")
_KINDS = {"count_ptr": "i64", "counters_ptr": "i32", **dict.fromkeys(_DROPPING, "i64")}
# of x's dtype; every other tensor is fp32
_IMAGES = tuple(f"{name}_ptr" for name in ("x", "y", "a", "b", "s", "residual", "grad", "other", "saved", "dz", "dx"))


def kernel_build(
    kernel: Any,
    label: str,
    channels: int,
    dtype: str,
    tiles: Mapping[str, int],
    settings: Mapping[str, Any],
    absent: tuple[str, ...] = (),
    *,
    drops: bool = False,
) -> KernelBuild:
    """A kernel at a tile of the table.

    Args:
        kernel: the jitted function, whose arguments are named as in all kernels of this family.
        label: of the build.
        channels: their number decides whether accesses are aligned.
        dtype: of x and of what has its shape: ``bf16``, ``fp16`` or ``fp32``.
        tiles: ``block_…`` and ``num_warps``.
        settings: compile-time arguments; those that the kernel lacks are left out.
        absent: pointers that are not passed.
        drops: whether it drops elements.
    """
    signature: dict[str, str] = {}
    constexprs: dict[str, Any] = {}
    blocks = {name.upper(): size for name, size in tiles.items() if name.startswith("block_")}
    known = {**settings, **blocks, "ALIGN": 8 if channels % 8 == 0 else 1}
    for name in kernel.arg_names:
        if name in known:
            constexprs[name] = known[name]
        elif name in absent or (name in _DROPPING and not drops):
            constexprs[name] = None
        elif name in _INTEGERS:
            signature[name] = "i32"
        elif name in _FLOATS:
            signature[name] = "fp32"
        else:
            kind = _KINDS.get(name, dtype if name in _IMAGES else "fp32")
            signature[name] = f"*{kind}"
    return KernelBuild(kernel, label, signature, constexprs, num_warps=tiles["num_warps"])
