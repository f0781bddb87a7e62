"""The base of all transforms: small frozen settings objects that add their rows to a Program.

Semantics are those of torchvision's transform of the same name on uint8 tensors unless a docstring says otherwise.
Settings are checked when the object is built.
"""

from abc import ABC, abstractmethod

from .program import Program


class Transform(ABC):
    """One entry of the list given to ``Augment``."""

    @property
    def name(self) -> str:
        """The class's name, for messages."""
        return type(self).__name__

    @abstractmethod
    def compile(self, program: Program) -> None:
        """Add this transform to the program, which knows the image size."""
