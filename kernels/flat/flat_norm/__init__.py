"""Global norms over flat buffers: of the gradient, of ASAM's |w|·g, and clipping by the first."""

from .op import flat_asam_norm, flat_clip, flat_grad_norm

__all__ = ["flat_asam_norm", "flat_clip", "flat_grad_norm"]
