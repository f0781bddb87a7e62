"""Running an op, or a convolution's kernel, with a given row: is it right, does it spill, how long does it take."""

import ctypes
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..batch_norm.norm import Norm
from ..batch_norm.state import BatchNormState
from ..convolution import torch_impl
from ..convolution.arguments import Convolution, Needed
from ..flat.table import FlatTable
from ..testing.check import Expectation, assert_close, training_step
from ..testing.spec import Inputs, OpSpec, SampleMaker, all_specs, normal
from ..tuning.tables import Tile, override
from .workloads import Workload

_DTYPE = torch.bfloat16
_CONVOLUTION = Convolution(stride=1, padding=1)
_NEXT_NORM = BatchNormState(None, None, None, 0.1, 1e-5)
_LOCAL_SIZE_BYTES = 3  # CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES
_MEASURED_SECONDS = 0.002
_REPEATS = 7
_MOST_CALLS = 200


class LoadedWorkload(Protocol):
    """A workload on the GPU."""

    def check(self) -> None:
        """Raise an AssertionError unless the result is that of the reference within the op's tolerances."""

    def step(self) -> None:
        """What is timed."""


def load_workload(workload: Workload, *, images: bool = True) -> LoadedWorkload:
    """The workload on the GPU; without ``images`` with two of them, so that its kernels are compiled."""
    spec = next(spec for spec in all_specs() if spec.name == workload.op)
    case = {**spec.benchmark_cases, **spec.tuning_cases}[workload.case]
    inputs = case(SampleMaker(_DTYPE, "cuda" if images else "cpu"))
    inputs = {name: _on_gpu(value) for name, value in inputs.items()}
    return LoadedPart(spec, workload.part, inputs) if workload.part else LoadedOp(spec, inputs)


def _on_gpu(value: Any) -> Any:
    if isinstance(value, FlatTable):
        return value._replace(settings=value.settings.cuda())
    return value.cuda() if isinstance(value, Tensor | nn.Module) else value


class LoadedOp:
    """An op, forward and backward."""

    def __init__(self, spec: OpSpec, inputs: Inputs) -> None:
        self.spec, self.inputs = spec, inputs
        self.step = training_step(spec.function, inputs, spec.differentiable)
        self.expectation: Expectation | None = None

    def check(self) -> None:
        self.expectation = self.expectation or Expectation(self.spec, self.inputs)
        self.expectation.check()


class LoadedPart:
    """One kernel of a convolution, with what belongs to it, beside the same of the library."""

    def __init__(self, spec: OpSpec, part: str, inputs: Inputs) -> None:
        self.tolerance = spec.forward_tolerance if part == "fwd" else spec.gradient_tolerance
        self.part, self.fused = part, spec.name == "bn_act_conv2d"
        generator = torch.Generator().manual_seed(2)
        x = inputs["x"] + 0.5 * inputs["x"].sign()  # away from the corner of relu
        weight = inputs["conv_weight" if "conv_weight" in inputs else "weight"]
        shape = (x.shape[0], weight.shape[0], *x.shape[2:])
        dy = normal(shape, generator, x.device, x.dtype).contiguous(memory_format=torch.channels_last)
        mean, slope = torch.zeros(x.shape[1]), torch.linspace(0.5, 1.5, x.shape[1])
        statistics = torch.stack([mean, mean, torch.full_like(mean, 0.8)])
        vectors = {"stats": statistics, "scale": slope, "shift": mean}
        self.tensors = {"x": x, "weight": weight, "dy": dy, **{k: v.to(x.device) for k, v in vectors.items()}}
        self.truth: list[tuple[Tensor, Tensor]] | None = None

    def step(self) -> None:
        from ..convolution import triton_impl

        self._run(triton_impl, self.tensors)

    def check(self) -> None:
        from ..convolution import triton_impl

        if self.truth is None:
            exact = self._run(torch_impl, {name: tensor.double() for name, tensor in self.tensors.items()})
            self.truth = list(zip(self._run(torch_impl, self.tensors), exact, strict=True))
        for i, (result, (same, true)) in enumerate(zip(self._run(triton_impl, self.tensors), self.truth, strict=True)):
            dtype = self.tensors["x"].dtype  # sums of rounded values are judged as those
            assert_close(f"result {i}", result.to(dtype), same.to(dtype), true, self.tolerance)

    def _run(self, module: ModuleType, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
        x, weight, dy, stats, scale, shift = tensors.values()
        norm, needed = Norm(stats, scale, shift, True, "relu", 0.0), Needed(self.part == "dgrad", self.part == "wgrad")
        if self.part == "fwd":
            after = (_NEXT_NORM, True, _CONVOLUTION)
            return module.bn_act_conv2d(x, weight, norm, *after) if self.fused else module.conv2d(x, weight, *after)
        if self.fused:
            dx, dw, *vectors = module.bn_act_conv2d_backward(x, weight, dy, norm, None, _CONVOLUTION, needed)
        else:
            dx, dw, *vectors = module.conv2d_backward(x, weight, dy, _CONVOLUTION, needed)
        return (dw,) if self.part == "wgrad" else (dx, *vectors)


class Bench:
    """Measures rows; the last workload stays on the GPU, since its candidates come one after another."""

    def __init__(self) -> None:
        self.workload: Workload | None = None
        self.loaded: LoadedWorkload | None = None

    def __call__(self, workload: Workload, row: Tile) -> float:
        """Seconds of the workload with this row, verified and without spills."""
        if workload != self.workload or self.loaded is None:
            self.workload, self.loaded = workload, None  # the old one's memory is free before the new one needs it
            self.loaded = load_workload(workload)
        try:
            with override({workload.op: row}):
                self.loaded.check()
                spilled = spilled_bytes(self.loaded.step)
                assert not spilled, f"spills {spilled} bytes a thread"
                return seconds_a_step(self.loaded.step)
        except Exception:
            # where nothing works any more this raises "CUDA error", which what went wrong need not have said
            torch.cuda.synchronize()
            raise


def spilled_bytes(call: Callable[[], object]) -> int:
    """The most local memory a thread, in bytes, of the Triton kernels that ``call`` launches."""
    import triton

    functions: set[int] = set()
    hooks = triton.knobs.runtime.launch_enter_hook

    def note(metadata: Any) -> None:
        functions.add(metadata.data["function"])

    hooks.add(note)
    try:
        call()
    finally:
        hooks.remove(note)
    return max(map(_local_bytes, functions), default=0)


def _local_bytes(function: int) -> int:
    value = ctypes.c_int()
    driver = ctypes.CDLL("libcuda.so.1")
    error = driver.cuFuncGetAttribute(ctypes.byref(value), _LOCAL_SIZE_BYTES, ctypes.c_void_p(function))
    if error:
        raise RuntimeError(f"CUDA error {error} from cuFuncGetAttribute")
    return value.value


def seconds_a_step(step: Callable[[], None]) -> float:
    """Median time of a step in a CUDA graph of several, after a warm-up."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    # launched one by one, a step of small kernels takes the host's time and not its own
    alone = _recorded(step, 1)
    once = min(_elapsed(alone.replay) for _ in range(2))
    calls = max(1, min(_MOST_CALLS, math.ceil(_MEASURED_SECONDS / once)))
    graph = _recorded(step, calls)
    times = sorted(_elapsed(graph.replay) for _ in range(_REPEATS))
    return times[_REPEATS // 2] / calls


def _recorded(step: Callable[[], None], calls: int) -> torch.cuda.CUDAGraph:
    """So many calls as a graph, replayed once."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            step()
    graph.replay()
    return graph


def _elapsed(call: Callable[[], object]) -> float:
    """Seconds between events before and after ``call``."""
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) * 1e-3
