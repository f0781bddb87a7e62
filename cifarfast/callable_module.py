"""A module that is a function too, for a name that the package needs as both."""

import importlib
import inspect
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """``cifarfast.train`` is the module of the command line, and called it is ``cifarfast.api.train``.

    A module takes this class by ``sys.modules[__name__].__class__ = CallableModule``. Then it makes no difference
    whether the package or the module was imported first.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function of ``cifarfast.api`` that has the module's name."""
        return self._function()(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function())

    def _function(self) -> Any:
        # by name: the api stands above the modules that it calls
        return getattr(importlib.import_module("cifarfast.api"), self.__name__.rpartition(".")[2])
