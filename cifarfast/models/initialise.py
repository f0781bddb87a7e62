"""Initialisation of a whole model, as a setting."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from cifarfast.errors import UserError, nearest

# Fan-in for convolutions and dense layers alike: it keeps the variance of the activations, it is right for depthwise
# convolutions (whose fan-out torch counts over all channels), and the last layer's logits stay of order one.
_WEIGHT_INIT: dict[str, Callable[[Tensor], Tensor]] = {
    "kaiming_normal": partial(nn.init.kaiming_normal_, mode="fan_in", nonlinearity="relu"),
    "xavier": nn.init.xavier_uniform_,
}
INITS = ("default", *_WEIGHT_INIT)


def check_init(init: str) -> None:
    """Raise ``UserError`` where ``init`` is not one of ``default``, ``kaiming_normal``, ``xavier``."""
    if init not in INITS:
        raise UserError(f"unknown initialisation {init!r}{nearest(init, INITS)} (one of {', '.join(INITS)})")


def initialise(model: nn.Module, init: str) -> None:
    """Draw every weight of ``model`` anew, in the order of its modules.

    Args:
        model: changed in place.
        init: ``default`` leaves the architecture's own (torch's, for the models of this package).
            ``kaiming_normal``: w ~ N(0, 2 / fan_in) in convolutions and dense layers (He et al. 2015).
            ``xavier``: w ~ U(−a, a), a = √(6 / (fan_in + fan_out)) (Glorot, Bengio 2010).
            Both set these layers' biases to 0, and batch norm's weights to 1 and biases to 0.

    Raises:
        UserError: another ``init``.
    """
    check_init(init)
    if init == "default":
        return
    for module in model.modules():
        if isinstance(module, _ConvNd | nn.Linear):
            _WEIGHT_INIT[init](module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, _BatchNorm) and module.affine:
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
