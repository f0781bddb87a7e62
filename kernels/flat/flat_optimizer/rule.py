"""What an optimizer step is: its rule with the settings, and the buffers that it reads and writes."""

from dataclasses import dataclass

from torch import Tensor

RULES = {
    "sgd": (False, False),
    "adam": (True, True),
    "nadam": (True, True),
    "adamax": (True, True),
    "rmsprop": (False, True),
    "adagrad": (False, True),
}
"""The rules, and whether they need a momentum and a second moment."""


@dataclass(frozen=True)
class Rule:
    """An update rule with its settings.

    Args:
        name: one of ``RULES``; see ``reference.update``.
        decay1, decay2: decay of the momentum and of the second moment, in [0, 1).
        eps: above 0, so that zero padding stays zero.
        extra: NAdam's momentum_decay or Adagrad's lr_decay, at least 0.
        nesterov: look ahead along the momentum (sgd).
        decoupled: weight decay shrinks the weights by lr·weight_decay (AdamW) instead of adding to the gradient.
    """

    name: str
    decay1: float = 0.0
    decay2: float = 0.0
    eps: float = 1e-8
    extra: float = 0.0
    nesterov: bool = False
    decoupled: bool = False


@dataclass(frozen=True)
class Buffers:
    """The buffers of a step, [P] each.

    Args:
        master: weights, fp32 (fp64: plain torch).
        grad: fp32, bf16 or fp16; only read.
        momentum, second_moment: of master's dtype, None where the rule has none. All states begin at zero.
        ema: of master's dtype or None; moves by ``EMA_DECAY`` towards the new weights.
        copy: in master's dtype or half precision, or None; gets the new weights, rounded.
    """

    master: Tensor
    grad: Tensor
    momentum: Tensor | None
    second_moment: Tensor | None
    ema: Tensor | None
    copy: Tensor | None
