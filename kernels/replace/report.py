"""What ``replace_modules`` did, as data and as text."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Replaced:
    """Modules that one fused op does the work of.

    Args:
        names: of the modules, from the model's root, in the order in which they ran; "" is the root itself.
        op: that runs now.
        what: what it computes.
    """

    names: tuple[str, ...]
    op: str
    what: str

    def __str__(self) -> str:
        return f"{', '.join(name or '(the model)' for name in self.names)}: {self.op}, {self.what}"


@dataclass(frozen=True)
class Left:
    """A module that was left as it was, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name or '(the model)'}: {self.reason}"


@dataclass(frozen=True, repr=False)
class ReplaceReport:
    """The result of ``replace_modules``; as text what was replaced by what, and what was left, by reason.

    Every convolution, batch norm, activation (torch's and timm's), max-pooling and cross entropy of the model is in one
    of the lists.

    Args:
        model: the model with the fused ops: the one that was given, unless that itself was replaced, as a lone
            ``CrossEntropyLoss`` is.
        replaced, left: in the order of ``model.named_modules()``.
    """

    model: nn.Module
    replaced: tuple[Replaced, ...]
    left: tuple[Left, ...]

    def __str__(self) -> str:
        lines = [f"replaced {len(self.replaced)}:", *(f"  {entry}" for entry in self.replaced)]
        reasons: dict[str, list[str]] = {}
        for entry in self.left:
            reasons.setdefault(entry.reason, []).append(entry.name or "(the model)")
        lines.append(f"left {len(self.left)}:")
        lines += [f"  {', '.join(names)}: {reason}" for reason, names in reasons.items()]
        return "\n".join(lines)

    __repr__ = __str__
