"""Functions as CUDA graphs: recorded once, then replayed without the host's work."""

import sys
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")


class Graphs:
    """Runs functions that read and write the same memory at every call.

    The first call of a key runs the function as it is (kernels are compiled, libraries pick their algorithms), the
    second records it as a CUDA graph, and from then on the graph is replayed. All graphs share one pool of memory, so
    what a function returns is valid until another key is run. Where recording fails, one line says at which op, and
    the function runs uncaptured from then on. On other devices than CUDA, and when not ``enabled``, it always does.

    Args:
        device: where the functions compute.
        enabled: whether to record.
    """

    def __init__(self, device: torch.device, *, enabled: bool) -> None:
        self.enabled = enabled and device.type == "cuda"
        self._seen: set[Hashable] = set()
        self._inputs: dict[Hashable, Tensor] = {}
        self._recorded: dict[Hashable, tuple[torch.cuda.CUDAGraph, Any]] = {}
        if self.enabled:
            self._stream = torch.cuda.Stream(device)
            self._pool = torch.cuda.graph_pool_handle()

    def run(self, key: Hashable, function: Callable[[], T]) -> T:
        """Do what ``function()`` does and return what it returns.

        Args:
            key: names the function with everything that may change what it launches, such as the batch's size.
            function: called with no arguments.
        """
        if not self.enabled:
            return function()
        if key not in self._seen:
            self._seen.add(key)
            return self._beside(function)
        if key not in self._recorded:
            try:
                self._recorded[key] = self._record(function)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self._give_up(function, error)
                return function()
        graph, result = self._recorded[key]
        graph.replay()
        return result

    def keep(self, key: Hashable, tensor: Tensor) -> Tensor:
        """The tensor that was given first for this key: the graph of the key may read it."""
        return self._inputs.setdefault(key, tensor)

    def _beside(self, function: Callable[[], T]) -> T:
        """Run on the stream that records later: autograd and allocator must not meet the default stream in it."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = function()
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def _record(self, function: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        # torch leaves its stream the current one when a recording fails
        with torch.cuda.stream(current), torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            result = function()
        return graph, result

    def _give_up(self, function: Callable[[], Any], error: RuntimeError) -> None:
        """Say once which op cannot be recorded, found by recording again with a look at every op."""
        self.enabled = False
        self._recorded.clear()
        torch.cuda.synchronize()
        last = LastOp()
        try:
            with last:
                self._record(function)
        except RuntimeError:
            torch.cuda.synchronize()
        reason = str(error).partition("\n")[0]
        print(
            f"cifarfast: the step runs without a CUDA graph: {last.name} cannot be captured ({reason})", file=sys.stderr
        )


class LastOp(TorchDispatchMode):
    """Context that remembers the op that was called last."""

    name = "an op"

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Tensor:
        self.name = str(func)
        result: Tensor = func(*args, **(kwargs or {}))
        return result
