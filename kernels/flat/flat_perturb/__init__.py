"""SAM's and ASAM's perturbed weights, written from the fp32 master into the compute copy."""

from .op import flat_perturb

__all__ = ["flat_perturb"]
