"""OpSpec: one description per op that drives its tests, its benchmark, the compile report and its row in the docs."""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import backend

Inputs = dict[str, Any]
HALF_DTYPES = (torch.bfloat16, torch.float16)


# a prime, so that no image, row or channel begins where another did
_PERIOD = 1_000_003


def normal(
    shape: Sequence[int], generator: torch.Generator, device: torch.device, dtype: torch.dtype, scale: float = 1.0
) -> Tensor:
    """Normal values drawn on the CPU; past about a million they repeat, as drawing more takes longer than any op."""
    if device.type == "meta":
        return torch.empty(tuple(shape), device=device, dtype=dtype)
    n = math.prod(shape)
    drawn = torch.randn(min(n, _PERIOD), generator=generator, dtype=torch.float64) * scale
    drawn = drawn.to(device, dtype)
    drawn = drawn.repeat(-(-n // _PERIOD))[:n] if n > _PERIOD else drawn
    return drawn.view(tuple(shape))


class SampleMaker:
    """Draws sample tensors, the same ones on every device: a CPU generator with a fixed seed, then a copy.

    On the meta device, where tensors have no values, it draws no normal ones.

    Args:
        dtype: what ``randn`` makes unless told otherwise.
        device: where the tensors go.
        seed: of the generator.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device | str = "cpu", seed: int = 0) -> None:
        self.dtype = dtype
        self.device = torch.device(device)
        self._generator = torch.Generator().manual_seed(seed)

    def randn(self, *shape: int, scale: float = 1.0, dtype: torch.dtype | None = None) -> Tensor:
        """Normal with standard deviation ``scale``; more than a million values repeat."""
        return normal(shape, self._generator, self.device, dtype or self.dtype, scale)

    def rand(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform in [0, 1)."""
        return torch.rand(shape, generator=self._generator, dtype=torch.float64).to(self.device, dtype)

    def images(self, n: int) -> int:
        """A benchmark's batch: n, but 2 on a CPU."""
        return 2 if self.device.type == "cpu" else n

    def integers(self, high: int, *shape: int) -> Tensor:
        """int64, uniform in [0, high)."""
        return torch.randint(high, shape, generator=self._generator).to(self.device)

    def counters(self, n: int) -> Inputs:
        """Seed, step and distinct indices of n samples, as ops that draw take them."""
        return {
            "seed": self.integers(2**62, 1)[0] - 2**61,
            "step": self.integers(2**40, 1)[0],
            "indices": self.integers(2**20, n) * 64 + torch.arange(n, device=self.device),
        }


Case = Callable[[SampleMaker], Inputs]


def in_fp32(case: Case) -> Case:
    """The same in fp32."""
    return lambda make: case(SampleMaker(torch.float32, make.device))


# draw_int(low, high) returns a number of [low, high]; a property test supplies the numbers
RandomCase = Callable[[SampleMaker, Callable[[int, int], int]], Inputs]


@dataclass(frozen=True)
class Tolerance:
    """How far an output may be from the fp64 reference.

    Element-wise: ``|out − ref64| ≤ 2 · |torch_same_dtype − ref64| + ulps · eps · (|ref64| + rms(ref64))``, and
    ``rms(out − ref64) ≤ rms_ulps · eps · rms(ref64)``; eps is that of the output's dtype. For an op with a
    ``error_bounds`` S the unit is ``eps · |ref64| + eps_fp32 · S`` in both.

    Outputs in half precision have numbers of their own: arithmetic in fp32 is exact beside their roundings, and 8 of
    their ulps would be 6 %.
    """

    ulps: float = 2.0
    rms_ulps: float = 2.0
    half_ulps: float = 2.0
    half_rms_ulps: float = 2.0

    def of(self, dtype: torch.dtype) -> tuple[float, float]:
        """Ulps element by element, and of the RMS, for an output of this dtype."""
        half = dtype in HALF_DTYPES
        return (self.half_ulps, self.half_rms_ulps) if half else (self.ulps, self.rms_ulps)


@dataclass(frozen=True)
class OpSpec:
    """Everything that tests, benchmarks and docs need to know about an op.

    Args:
        name: of the op and of its public function.
        summary: one line for the docs.
        replaces: the torch function it replaces.
        function: the public function. All of these take the same keyword arguments.
        reference: plain torch, differentiable, and exact enough in fp64 to be the truth.
        eager: what a user of torch writes without this library; the benchmark's baseline.
        compiled_ops: the names of its torch.library ops (``cifarfast::…``).
        op_arguments: turns keyword arguments into the positional ones of the first of ``compiled_ops``.
        differentiable: the names of the inputs that get a gradient.
        cases: named sample inputs, small enough for Triton's interpreter.
        random_case: sample inputs of random shape, for property tests.
        random_floor: for such inputs, the least RMS to measure errors by: the size of terms that may cancel.
        benchmark_cases: named inputs to time; small ones on a CPU.
        tile_size: for given inputs, the size by which the op's tile is looked up in the tuning table; None for an op
            that has no row of its own there.
        library: the best library op to compare with, and its name; None where ``eager`` is that. It takes the same
            keyword arguments and may do less than the op.
        error_bounds: for inputs and the outputs' gradients in fp64, of every output and every gradient how far fp32
            arithmetic may be off, in units of its eps: the sum of the absolute values of the terms that are added, each
            times its own relative error. A judge that is neither too strict nor too lax where sums cancel.
        tuning_cases: named inputs for the tuner, beside ``benchmark_cases``.
        flops, bytes_moved: of forward and backward together, for given inputs.
        compile_cases: named inputs whose launches the compile report compiles, in bf16 unless they say otherwise: every
            tile of the table in use, and what takes the most registers. A batch norm ``next_norm`` among them goes to
            the form of the op that makes its statistics; with ``backward=False`` only the forward is launched.
        dtypes: the compute dtypes it is tested in.
        forward_tolerance, gradient_tolerance: see ``Tolerance``.
        mutates: the inputs that an op writes in place: outputs too, after those that the function returns, if any.
        advances: inputs that it also writes but that are no result, such as a step counter.
        surrogate_gradient: whether for given inputs the gradient is by design not the derivative (ShakeDrop).
    """

    name: str
    summary: str
    replaces: str
    function: Callable[..., Any]
    reference: Callable[..., Any]
    eager: Callable[..., Any]
    compiled_ops: tuple[str, ...]
    op_arguments: Callable[[Inputs], tuple[Any, ...]]
    differentiable: tuple[str, ...]
    cases: Mapping[str, Case]
    random_case: RandomCase
    benchmark_cases: Mapping[str, Case]
    flops: Callable[[Inputs], int]
    bytes_moved: Callable[[Inputs], int]
    compile_cases: Callable[[], Mapping[str, Case]]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, *HALF_DTYPES)
    forward_tolerance: Tolerance = field(default_factory=Tolerance)
    gradient_tolerance: Tolerance = field(default_factory=Tolerance)
    random_floor: Callable[[Inputs], float] = lambda inputs: 1.0
    mutates: tuple[str, ...] = ()
    advances: tuple[str, ...] = ()
    surrogate_gradient: Callable[[Inputs], bool] = lambda inputs: False
    tile_size: Callable[[Inputs], int] | None = None
    library: tuple[str, Callable[..., Any]] | None = None
    error_bounds: Callable[[Inputs, Sequence[Tensor]], tuple[list[Tensor], list[Tensor]]] | None = None
    tuning_cases: Mapping[str, Case] = field(default_factory=dict)

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends that the op has, in order of preference."""
        return backend.registered()[self.name]

    def docs_row(self) -> str:
        """The op's row in a Markdown table: name, what it replaces, what it does, backends."""
        return f"| `{self.name}` | `{self.replaces}` | {self.summary} | {', '.join(self.backends)} |"


def all_specs() -> list[OpSpec]:
    """The spec of every registered op, from its package's ``spec.py``, by name."""
    ops = sorted(backend.registered())
    modules = [importlib.import_module(f"{backend.package(op)}.spec") for op in ops]
    specs = {spec.name: spec for module in modules for spec in vars(module).values() if isinstance(spec, OpSpec)}
    return [specs[op] for op in ops]
