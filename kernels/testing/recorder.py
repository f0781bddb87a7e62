"""Recording the launches of Triton kernels without a GPU.

Inside ``record()`` ops run the host code that they run on a GPU, up to the call of the driver: Triton's own launcher
binds and specialises the arguments, and instead of compiling and launching the kernel the launch is noted. A noted
``Launch`` can be compiled, counted and listed. Tensors hold rubbish afterwards, so no launch may depend on a result.

Record on meta tensors where nothing needs to be computed: they have any size for nothing, and reading a value is an
error. CPU tensors and fake ones (``FakeTensorMode``) work as well.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import FrameType
from typing import Any, Literal
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .. import backend
from ..tuning import tables as tuning

_MOST_PROGRAMS = (2**31 - 1, 65535, 65535)


@dataclass(frozen=True)
class Launch:
    """A launch, with all that the compiler is told of it.

    Args:
        kernel: the jitted function, as ``module:name``.
        arch: of the GPU, such as ``sm_90``.
        grid: how many programs, in up to three dimensions.
        signature: type of every argument (``*bf16``, ``i32``, ``constexpr``), in order.
        constexprs: value of every compile-time argument, by its place; None for a pointer that is not passed, and 1 for
            an integer that is 1.
        attributes: what is known of the other arguments, by their place: that 16 divides them.
        options: ``num_warps``, ``num_stages``, ``maxnreg`` and the other launch options.
        line: ``path:line`` of the launch.
    """

    kernel: str
    arch: str
    grid: tuple[int, ...]
    signature: Mapping[str, str]
    constexprs: Mapping[tuple[int, ...], Any]
    attributes: Mapping[tuple[int, ...], Any]
    options: Mapping[str, Any]
    line: str

    @property
    def name(self) -> str:
        """The kernel's name."""
        return self.kernel.rpartition(":")[2]

    @property
    def settings(self) -> dict[str, Any]:
        """The compile-time arguments by name."""
        names = list(self.signature)
        return {names[place[0]]: value for place, value in self.constexprs.items()}

    @property
    def code(self) -> str:
        """Equal for launches of the same machine code."""
        told = (self.signature, self.constexprs, self.attributes, self.options)
        return repr((self.kernel, self.arch, *(sorted(items.items()) for items in told)))

    @property
    def variant(self) -> str:
        """Equal for launches that differ in no more than the values of integers, and in what is known of those."""
        types = {name: "i32" if name in self._ones else kind for name, kind in self.signature.items()}
        settings = {name: value for name, value in self.settings.items() if name not in self._ones}
        return repr((self.kernel, self.arch, types, settings, sorted(self.options.items())))

    @property
    def _ones(self) -> set[str]:
        """The integers that Triton has made compile-time arguments, as they are 1."""
        parameters, values = self.function.params, self.constexprs.items()
        found = (parameters[place[0]] for place, value in values if len(place) == 1 and value == 1)
        return {parameter.name for parameter in found if not parameter.is_constexpr}

    @property
    def function(self) -> Any:
        """The jitted function."""
        module, _, name = self.kernel.partition(":")
        return getattr(import_module(module), name)

    def compile(self) -> Any:
        """Compile the kernel as it is launched; what Triton's cache has is not compiled again."""
        import triton
        from triton.compiler import ASTSource

        source = ASTSource(self.function, dict(self.signature), dict(self.constexprs), dict(self.attributes))
        return triton.compile(source, target=_target(self.arch), options=dict(self.options))


def names(launches: Iterable[Launch]) -> set[str]:
    """The names of the kernels."""
    return {launch.name for launch in launches}


@contextmanager
def record(arch: str = "sm_90", *, convolutions: Literal["library", "triton"] = "triton") -> Iterator[list[Launch]]:
    """Context in which ops choose as on the GPU model of ``arch``, and launches of Triton kernels are noted.

    Args:
        arch: ``sm_80``, ``sm_90`` or ``sm_100``; ``tuning.MODELS`` has the model that stands for it.
        convolutions: whether the library's are taken where the tuning table says so, or always this package's kernels.

    Raises:
        ValueError: a grid that CUDA would refuse.
    """
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    launches: list[Launch] = []
    grids: list[tuple[int, ...]] = []
    run = JITFunction.run

    def note_grid(self: Any, *args: Any, grid: Any, warmup: bool, **settings: Any) -> None:
        if not all(isinstance(n, int) and 0 < n <= most for n, most in zip(grid, _MOST_PROGRAMS, strict=False)):
            raise ValueError(f"{self.fn.__name__}: grid {grid}")
        grids.append(tuple(grid))
        run(self, *args, grid=grid, warmup=True, **settings)

    def note_launch(
        self: Any, key: Any, signature: Any, device: int, constexprs: Any, options: Any, attributes: Any, warmup: bool
    ) -> None:
        kernel = f"{self.fn.__module__}:{self.fn.__name__}"
        known = (signature, constexprs, attributes, dict(vars(options)))
        launches.append(Launch(kernel, arch, grids.pop(), *known, line=_launching_line()))

    def choose(op: str, device: torch.device) -> backend.Choice:
        found = "triton" if "triton" in backend.registered()[op] else "torch"
        return backend.Choice(found, f"recorded as on {arch}")

    environment = {name: value for name, value in os.environ.items() if name != backend.BACKEND_VARIABLE}
    if convolutions == "triton":
        environment[backend.BACKEND_VARIABLE] = "triton"
    with (
        mock.patch.object(driver, "_active", _Driver(arch)),
        mock.patch.object(JITFunction, "run", note_grid),
        mock.patch.object(JITFunction, "_do_compile", note_launch),
        mock.patch.object(backend, "choose", choose),
        mock.patch.object(torch.cuda, "get_device_capability", return_value=divmod(_number(arch), 10)),
        mock.patch.dict(os.environ, environment, clear=True),
        tuning.assume(tuning.MODELS[arch]),
        _Implementations(),
    ):
        yield launches


class _Implementations(TorchDispatchMode):
    """Runs this package's ops by their implementations also where torch would take their fakes."""

    _ON_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace != "cifarfast":
            return function(*args, **(kwargs or {}))
        with self:
            return function.redispatch(self._ON_CPU, *args, **(kwargs or {}))


class _Driver:
    """What the launcher asks a driver for before it calls it."""

    def __init__(self, arch: str) -> None:
        self._arch = arch

    def get_current_device(self) -> int:
        """A number of its own for each architecture: the launcher keeps the first target of a device."""
        return _number(self._arch)

    def get_current_stream(self, device: int) -> int:
        """The default stream."""
        return 0

    def get_current_target(self) -> Any:
        """The architecture."""
        return _target(self._arch)


def _target(arch: str) -> Any:
    from triton.backends.compiler import GPUTarget

    return GPUTarget("cuda", _number(arch), 32)


def _number(arch: str) -> int:
    return int(arch.removeprefix("sm_"))


def _launching_line() -> str:
    """The innermost line outside Triton and this module."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith((__name__, "triton.")):
        frame = frame.f_back
    assert frame is not None
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
