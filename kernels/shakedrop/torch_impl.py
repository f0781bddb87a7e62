"""ShakeDrop with torch ops: the op's implementation without Triton."""

import torch
from torch import Tensor

from ..layout import output_layout
from .draws import Scaling, draw_coefficients


def shakedrop(shortcut: Tensor, branch: Tensor, scaling: Scaling) -> Tensor:
    """``shortcut + (b + α − bα) · branch``, computed in at least fp32."""
    dtype = torch.promote_types(branch.dtype, torch.float32)
    if scaling.seed is None:
        out = torch.add(shortcut.to(dtype), branch.to(dtype), alpha=scaling.keep_probability)
    else:
        scale, _ = draw_coefficients(branch.shape, branch.device, scaling)
        out = torch.addcmul(shortcut.to(dtype), branch.to(dtype), scale.to(dtype))
    return out.to(branch.dtype).contiguous(memory_format=output_layout(branch))


def shakedrop_backward(grad: Tensor, scaling: Scaling) -> Tensor:
    """``(b + β − bβ) · grad``, the branch's gradient."""
    if scaling.seed is None:
        out = grad * scaling.keep_probability
    else:
        _, scale = draw_coefficients(grad.shape, grad.device, scaling)
        out = (grad * scale.to(torch.promote_types(grad.dtype, torch.float32))).to(grad.dtype)
    return out.contiguous(memory_format=output_layout(grad))
