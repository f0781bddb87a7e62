"""SAM and ASAM: the gradient is taken at weights that are perturbed towards a higher loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..recipes.recipe import Recipe
from .flat import FlatParameters


@dataclass(frozen=True)
class Sharpness:
    """Settings of SAM or ASAM around any optimizer.

    SAM: e = rho·g / ‖g‖. ASAM: e = rho·(|w| + eta)²·g / ‖(|w| + eta)·g‖. The second gradient, at w + e, is the one the
    optimizer gets; the master weights are not touched. Dropout and ShakeDrop draw anew in the second pass, batch norm's
    running statistics move in the first only. A penalty (``l2``, weight decay) acts at w.

    Foret et al., "Sharpness-aware minimization", ICLR 2021; Kwon et al., "ASAM", ICML 2021; every n-th step: Liu et
    al., "Towards efficient and scalable sharpness-aware minimization", CVPR 2022.
    """

    rho: float
    adaptive: bool
    eta: float
    every: int

    @classmethod
    def of(cls, recipe: Recipe) -> "Sharpness | None":
        """The recipe's SAM or ASAM, None where it has none."""
        if recipe.sam == "none":
            return None
        assert recipe.sam_rho is not None, "the recipe must be resolved"
        return cls(recipe.sam_rho, recipe.sam == "asam", recipe.sam_eta, recipe.sam_every)

    def due(self, step: int) -> bool:
        """Whether step ``step`` (0 is the first) is perturbed."""
        return step % self.every == 0

    def perturb(self, flat: FlatParameters) -> Tensor:
        """Write the perturbed weights from the gradient in ``flat.grad``; returns the norm it divided by."""
        return flat.perturb(rho=self.rho, adaptive=self.adaptive, eta=self.eta)


@contextmanager
def unmoved_statistics(model: nn.Module) -> Iterator[None]:
    """Context in which batch norms in training normalise by the batch but leave their running statistics alone."""
    tracking = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True
