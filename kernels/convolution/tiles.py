"""From shapes to launches: the convolution's geometry and its tiles, from the tuning table."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..tuning.tables import Tile, tile

# every other activation takes registers for its exponential or error function
_CHEAP_ACTIVATIONS = ("identity", "relu", "leaky_relu")
# how many values a thread has registers for such an activation of
_MOST_VALUES = 32
# with fewer rows the pixels would not fill the tensor cores' instruction
_LEAST_PIXELS = 64
_MOST_REGISTERS = 255
_REGISTERS_OF_A_BLOCK = 1 << 16


@dataclass(frozen=True)
class Geometry:
    """A convolution's sizes: x [N, C, H, W], weight [K, C, R, S], y [N, K, P, Q]; and the op whose tiles it takes."""

    n: int
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    p: int
    q: int
    stride: int
    padding: int
    op: str

    @property
    def pixels(self) -> int:
        """Pixels of the output."""
        return self.n * self.p * self.q

    @property
    def flops(self) -> int:
        """Of the convolution; its two gradients have as many each."""
        return 2 * self.pixels * self.k * self.c * self.r * self.s


def geometry(x_shape: torch.Size, weight_shape: torch.Size, stride: int, padding: int, op: str = "conv2d") -> Geometry:
    """The sizes of ``conv2d(x, weight, stride=stride, padding=padding)``, for ``op``."""
    n, c, h, w = x_shape
    k, _, r, s = weight_shape
    p, q = (h + 2 * padding - r) // stride + 1, (w + 2 * padding - s) // stride + 1
    return Geometry(n, c, h, w, k, r, s, p, q, stride, padding, op)


@dataclass(frozen=True)
class Tiling:
    """How a kernel shares out its work.

    Args:
        box: images, rows and columns of a tile of pixels. ``(1, 1, pixels)`` where tiles are runs of pixels.
        channels: of the result that a program computes.
        depth: channels that a step of the loop reads.
        descriptors: whether tiles are loaded through tensor descriptors.
        programs: how many to split the sum over all pixels to (wgrad).
        max_registers: that a thread may have, or None to leave it to the compiler.
    """

    box: tuple[int, int, int]
    channels: int
    depth: int
    num_warps: int
    num_stages: int
    descriptors: bool
    programs: int
    max_registers: int | None

    @property
    def pixels(self) -> int:
        """Pixels of a tile."""
        images, rows, columns = self.box
        return images * rows * columns


def tiling(
    op: str,
    kernel: str,
    written: int,
    read: int,
    grid: tuple[int, int, int],
    operands: tuple[Tensor, Tensor],
    *,
    descriptors: bool = True,
    act: str = "identity",
) -> Tiling:
    """The tiling of ``kernel`` (fwd, dgrad, wgrad) of ``op``.

    Args:
        written: channels of the result; the tuning table's size.
        read: channels that the kernel sums over (wgrad: the input's channels).
        grid: images, rows and columns of the pixels that are shared out; for stride 2 in dgrad those of a phase.
        operands: what tiles are loaded of. Their device and dtype decide on the table, and with where they begin in
            memory on descriptors.
        descriptors: whether the kernel can use them: not for pixels with gaps between them.
        act: see ``fit``.
    """
    first = operands[0]
    settings = kernel_row(tile(op, written, first.device), kernel)
    descriptors = descriptors and all(map(_has_descriptors, operands))
    return fit(settings, kernel, read, grid, first.dtype, descriptors=descriptors, act=act)


def kernel_row(row: Tile, kernel: str) -> Tile:
    """A kernel's part of a row of the tuning table."""
    return {name.removeprefix(f"{kernel}_"): value for name, value in row.items() if name.startswith(f"{kernel}_")}


def fit(
    settings: Tile,
    kernel: str,
    read: int,
    grid: tuple[int, int, int],
    dtype: torch.dtype,
    *,
    descriptors: bool,
    act: str = "identity",
) -> Tiling:
    """Fit a row of the tuning table to the problem: no deeper than there are channels, boxes where they divide.

    ``act`` is the activation that the kernel evaluates: of its operand (fwd, wgrad), or in dgrad its derivative for the
    result. Rows are measured with relu, and another must not make them spill: tiles have fewer pixels where a thread
    would evaluate it for too many values, and the compiler is told that all registers may be used. Left to itself it
    spills a few of them so that two blocks fit on a multiprocessor.
    """
    pixels, channels, depth = settings["pixels"], settings["channels"], settings["depth"]
    depth = min(depth, max(16, 1 << (read - 1).bit_length()))
    if kernel != "wgrad" and depth > 32 and -read % depth >= 32:
        depth = 32  # half of the last step would be past the last channel
    threads = 32 * settings["warps"]
    max_registers = None
    if act not in _CHEAP_ACTIVATIONS:
        max_registers = min(_MOST_REGISTERS, _REGISTERS_OF_A_BLOCK // threads)
        evaluated = channels if kernel == "dgrad" else depth
        while pixels > _LEAST_PIXELS and pixels * evaluated > _MOST_VALUES * threads:
            pixels //= 2
    if dtype == torch.float32:  # twice the bytes, and three products for one
        pixels, channels, depth = min(pixels, 64), min(channels, 64), min(depth, 32)
    # the weight's gradient reads whole rows of pixels, which lie one after another in dy
    box = pixel_box(pixels, grid, whole_rows=kernel == "wgrad") if descriptors else None
    return Tiling(
        box=box or (1, 1, pixels),
        channels=channels,
        depth=depth,
        num_warps=settings["warps"],
        num_stages=settings["stages"],
        descriptors=box is not None,
        programs=settings.get("programs", 1),
        max_registers=max_registers,
    )


def pixel_box(pixels: int, grid: tuple[int, int, int], *, whole_rows: bool) -> tuple[int, int, int] | None:
    """A box of ``pixels`` that tiles every image exactly, or whole images; None if there is none."""
    _, height, width = grid
    columns = min(_power_of_2_factor(width), pixels if whole_rows else 16)
    if whole_rows and columns != width:
        return None
    rows = min(_power_of_2_factor(height), pixels // columns)
    images = pixels // (rows * columns)
    if images > 1 and (rows, columns) != (height, width):
        return None
    return images, rows, columns


def _power_of_2_factor(value: int) -> int:
    return value & -value


def _has_descriptors(tensor: Tensor) -> bool:
    """Whether tensor descriptors load ``tensor``: by hardware since compute capability 9, and in the interpreter."""
    if tensor.dtype == torch.float32 or tensor.data_ptr() % 16:
        return False
    return tensor.is_cpu or torch.cuda.get_device_capability(tensor.device)[0] >= 9
