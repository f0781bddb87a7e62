"""The tiles that are worth measuring, by op and size. Every number but stages is a power of two."""

from collections.abc import Callable, Iterator
from itertools import product

from ..tuning.tables import Tile

PARTS = ("fwd", "dgrad", "wgrad")
# what a block may use of Hopper's shared memory, less some for the compiler
_SHARED_BYTES = 220 * 1024
_ELEMENT_BYTES = 2
_WARP = 32


def candidates(op: str, part: str, size: int, default: Tile) -> list[Tile]:
    """Rows to measure for an op at a size: the default one, then the others, each once.

    Args:
        op: of the tuning table.
        part: of a convolution (fwd, dgrad or wgrad; rows are then that part of a whole one, without prefix), else "".
        size: by which the row is looked up.
        default: the row, or the part of it, that is used without measurements.
    """
    rows = [default]
    for row in _SPACES[part or op](size):
        if row not in rows:
            rows.append(row)
    return rows


def label(row: Tile) -> str:
    """A row as text."""
    return " ".join(f"{name}={value}" for name, value in row.items())


def _power_of_2(value: int) -> int:
    """The least power of two that is not below ``value``."""
    return 1 << (value - 1).bit_length()


def _widths(size: int, most: int) -> list[int]:
    """Blocks of channels: the one that covers them all, or ``most``, and half of it; at least 16."""
    whole = max(16, min(most, _power_of_2(size)))
    return sorted({whole, max(16, whole // 2)})


def _batch_norm_act(size: int) -> Iterator[Tile]:
    for block_c, (elements, warps), programs in product(
        _widths(size, 128), ((2048, 4), (4096, 4), (4096, 8)), (512, 1024)
    ):
        yield _row(block_m=elements // block_c, block_c=block_c, num_warps=warps, stages=4, programs=programs)


def _global_avg_pool_act(size: int) -> Iterator[Tile]:
    for block_c, block_m, warps in product(_widths(size, 64), (16, 32, 64), (2, 4)):
        if block_m * block_c >= 8 * warps * _WARP:
            yield _row(block_m=block_m, block_c=block_c, num_warps=warps)


def _max_pool_bn_act(size: int) -> Iterator[Tile]:
    for block_c, elements, programs in product(_widths(size, 64), (512, 1024, 2048), (512, 1024)):
        yield _row(block_m=elements // block_c, block_c=block_c, num_warps=4, programs=programs)


def _cross_entropy(size: int) -> Iterator[Tile]:
    for rows, warps in product((1, 2, 4, 8, 16), (2, 4, 8)):
        threads, elements = warps * _WARP, rows * _power_of_2(size)
        if threads <= elements <= 32 * threads:
            yield _row(rows=rows, num_warps=warps)


def _elementwise(size: int) -> Iterator[Tile]:
    for elements, warps in product((1024, 2048, 4096, 8192), (4, 8)):
        if elements >= 8 * warps * _WARP:
            yield _row(elements=elements, num_warps=warps)


def _shakedrop_bn_shortcut(size: int) -> Iterator[Tile]:
    shared = {"num_warps": 4}
    for (lanes, steps), width in product(((128, 4), (128, 2), (256, 2), (256, 1)), _widths(size, 64)):
        sums = {"sum_rows": 2048 // width, "sum_channels": width}
        yield {"lanes": lanes, "steps": steps, **sums, "chunk": 256, **shared}
    for chunk in (128, 512):
        width = _widths(size, 64)[-1]
        sums = {"sum_rows": min(chunk, 2048 // width), "sum_channels": width}
        yield {"lanes": 128, "steps": 4, **sums, "chunk": chunk, **shared}


def _flat(blocks: tuple[int, ...]) -> Callable[[int], Iterator[Tile]]:
    def rows(size: int) -> Iterator[Tile]:
        for block, warps in product(blocks, (2, 4, 8)):
            if block >= 4 * warps * _WARP:
                yield _row(block=block, num_warps=warps)

    return rows


def _flat_norm(size: int) -> Iterator[Tile]:
    for block, repeats, warps in product((512, 1024), (2, 4, 8), (4, 8)):
        if block >= 4 * warps * _WARP:
            yield _row(block=block, repeats=repeats, num_warps=warps)


def _convolution_widths(size: int, most: int = 256) -> list[int]:
    """Blocks of channels, the larger of which compute more past the last channel but read the input less often."""
    least = 64 if size >= 128 else min(32, max(16, _power_of_2(size)))
    widths = [width for width in (16, 32, 64, 128, 256) if least <= width <= most]
    found = {least}
    for waste in (1.15, 1.4, 1.8):
        found |= set([width for width in widths if -(-size // width) * width <= waste * size][-1:])
    return sorted(found | ({128} if size > 128 else set()))


def _convolution(size: int) -> Iterator[Tile]:
    """Of the forward and the gradient of the input: [pixels, depth] · [depth, channels]."""
    depths = (32, 64) if size <= 48 else (64, 128) if size >= 256 else (64,)
    for channels, pixels, depth, warps in product(_convolution_widths(size), (64, 128, 256), depths, (4, 8)):
        stages = min(4, _SHARED_BYTES // ((pixels + channels) * depth * _ELEMENT_BYTES))
        # half of a thread's registers, and no warp without work
        if stages >= 2 and 16 <= pixels * channels // (warps * _WARP) <= 128 and pixels >= 16 * warps:
            yield _row(pixels=pixels, channels=channels, depth=depth, warps=warps, stages=stages)


def _gradient_of_weight(size: int) -> Iterator[Tile]:
    """[depth, pixels] · [pixels, channels], the sum over all pixels split to programs."""
    widths = _convolution_widths(size, 128)
    for channels, depth, pixels, programs in product(widths, widths, (64, 128), (256, 512)):
        warps = 8 if depth * channels >= 128 * 64 else 4
        stages = min(3, _SHARED_BYTES // ((depth + channels) * pixels * _ELEMENT_BYTES))
        if stages >= 2:
            settings = {"warps": warps, "stages": stages, "programs": programs}
            yield _row(pixels=pixels, channels=channels, depth=depth, **settings)


def _row(**values: int) -> Tile:
    return values


_SPACES: dict[str, Callable[[int], Iterator[Tile]]] = {
    "add_batch_norm_act": _batch_norm_act,
    "batch_norm_act": _batch_norm_act,
    "cross_entropy": _cross_entropy,
    "dropout": _elementwise,
    "flat_ema": _flat((1024, 2048, 4096)),
    "flat_lookahead": _flat((512, 1024)),
    "flat_norm": _flat_norm,
    "flat_optimizer": _flat((512, 1024)),
    "flat_perturb": _flat((512, 1024)),
    "fwd": _convolution,
    "dgrad": _convolution,
    "wgrad": _gradient_of_weight,
    "global_avg_pool_act": _global_avg_pool_act,
    "max_pool_bn_act": _max_pool_bn_act,
    "shakedrop": _elementwise,
    "shakedrop_bn_shortcut": _shakedrop_bn_shortcut,
}
