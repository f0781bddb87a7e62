"""``shakedrop``: a residual sum with a randomly scaled branch; the torch op, its autograd and the function.

The coefficients are drawn inside the kernels from counters, so nothing is saved for the backward but the counters, and
nothing waits for the device.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..arguments import names_misfits
from ..layout import check_batch, check_strided, output_layout
from ..library import Gradients, operator
from .draws import Scaling


@names_misfits
def shakedrop(
    shortcut: Tensor,
    branch: Tensor,
    keep_probability: float,
    *,
    training: bool = True,
    seed: Tensor | None = None,
    step: Tensor | None = None,
    layer: int = 0,
    indices: Tensor | None = None,
    level: str = "image",
    keep_level: str = "image",
) -> Tensor:
    """ShakeDrop: a residual sum whose branch is scaled at random, differently forward and backward.

    With b ~ Bernoulli(p), α ~ U[−1, 1) and β ~ U[0, 1)::

        forward   y = shortcut + (b + α − b·α) · branch
        backward  grad_shortcut = grad_y,   grad_branch = (b + β − b·β) · grad_y

    In evaluation ``y = shortcut + p · branch``, the expectation, with its own gradient.

    Args:
        shortcut: [N, C, …], like ``branch``.
        branch: [N, C, …], fp32, bf16, fp16 or fp64; no dimension is empty. A channels_last branch gives a
            channels_last result.
        keep_probability: p in [0, 1], used to 24 bits; see ``linear_keep_probability``.
        training: draw, instead of the expectation.
        seed: [] int64 on the branch's device, the generator's key. None takes one from torch's generator of that
            device.
        step: [] int64 on that device, the counter that makes one training step differ from the next; None is 0.
            Change it in place between steps, not between a forward and its backward.
        layer: in [0, 2²⁴); layers that share a seed need different ones.
        indices: [N] int64 on that device: which samples these are, in the data set; None is 0 … N − 1.
        level: what shares one α and one β: ``batch``, ``image``, ``channel`` (of one image) or ``pixel`` (every element
            has its own).
        keep_level: what shares one b: ``batch`` or ``image``.

    Returns:
        [N, C, …] in the branch's dtype, computed in fp32 (fp64 for fp64).

    Raises:
        ValueError: a shape, dtype, device or setting that does not fit.

    Yamada, Iwamura, Akiba, Kise, "ShakeDrop Regularization for Deep Residual Learning", IEEE Access 7, 2019. The
    generator is Philox4x32-10; ``draws.py`` has the counters.
    """
    _check_branch(shortcut, branch)
    scaling = Scaling(seed, step, indices, keep_probability, layer, level, keep_level).checked("branch", branch)
    return forward(shortcut, branch, scaling.seeded(branch, training))


@operator("shakedrop")
def forward(shortcut: Tensor, branch: Tensor, scaling: Scaling) -> Tensor:
    return torch.empty_like(branch, memory_format=output_layout(branch))


@operator("shakedrop_backward")
def backward(grad: Tensor, scaling: Scaling) -> Tensor:
    return torch.empty_like(grad, memory_format=output_layout(grad))


@forward.backward(saves=lambda _, shortcut, branch, scaling: (scaling,))
def _gradients(grad: Tensor, scaling: Scaling, needs: Callable[[str], bool]) -> Gradients:
    return {"shortcut": grad, "branch": backward(grad, scaling) if needs("branch") else None}


@backward.backward(saves=lambda _, grad, scaling: (scaling,))
def _second_gradients(grad: Tensor, scaling: Scaling) -> Gradients:
    """The backward multiplies by ``b + β − b·β``, and so does its own."""
    return {"grad": backward(grad, scaling)}


def _check_branch(shortcut: Tensor, branch: Tensor) -> None:
    check_batch("branch", branch)
    check_strided("shortcut", shortcut)
    for what in ("shape", "dtype", "device"):
        ours, theirs = getattr(shortcut, what), getattr(branch, what)
        if ours != theirs:
            raise ValueError(f"shortcut must have the branch's {what} {theirs}, got {ours}")
