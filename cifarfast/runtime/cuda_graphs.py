"""Functions as CUDA graphs: recorded once, then replayed without the host's work."""

import contextlib
import gc
import sys
import traceback
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class CUDAGraphs:
    """Runs functions that read and write the same memory at every call.

    The first call of a key runs the function as it is (kernels are compiled, libraries pick their algorithms), then
    records it as a CUDA graph, which computes nothing; every later call replays the graph. All graphs share one pool of
    memory, so a function's result is valid until another key is run. Where recording fails, one line says where, and
    functions run uncaptured from then on. They always do on other devices than CUDA, and when not ``enabled``.

    Args:
        device: where the functions compute.
        enabled: whether to record.
    """

    def __init__(self, device: torch.device, *, enabled: bool) -> None:
        self.enabled = enabled and device.type == "cuda"
        self._inputs: dict[Hashable, Tensor] = {}
        self._recorded: dict[Hashable, tuple[torch.cuda.CUDAGraph, Any]] = {}
        if self.enabled:
            self._device = torch.cuda.current_device() if device.index is None else device.index
            self._stream = torch.cuda.Stream(device)
            self._pool = torch.cuda.graph_pool_handle()

    def run(self, key: Hashable, function: Callable[[], T]) -> T:
        """Call ``function()``, or replay its graph, and return its result.

        Args:
            key: names the function with everything that may change what it launches, such as the batch's size.
            function: called with no arguments.
        """
        if not self.enabled:
            return function()
        if key not in self._recorded:
            first = self._beside(function)
            self._try_to_record(key, function)
            return first
        graph, result = self._recorded[key]
        graph.replay()
        return result

    def keep(self, key: Hashable, tensor: Tensor) -> Tensor:
        """Return the first tensor that was given for this key, which the key's graph may read."""
        return self._inputs.setdefault(key, tensor)

    def _beside(self, function: Callable[[], T]) -> T:
        """Run on the stream that records later: autograd and allocator must not meet the default stream in it."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = function()
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def _try_to_record(self, key: Hashable, function: Callable[[], Any]) -> None:
        """Record the function for the key. Where that fails, say so and record no more."""
        try:
            self._recorded[key] = self._record(function)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._give_up(error)

    def _record(self, function: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        gc.collect()
        torch.cuda.empty_cache()
        with torch.cuda.stream(self._stream):
            try:
                graph.capture_begin(pool=self._pool)
                result = function()
                graph.capture_end()
            except BaseException:
                self._abandon(graph)
                raise
        return graph, result

    def _abandon(self, graph: torch.cuda.CUDAGraph) -> None:
        """Undo what ``capture_begin`` did to the allocator and to torch's generator.

        ``capture_end`` stops at its first error, which after a failed recording comes before both.
        """
        with contextlib.suppress(RuntimeError):
            graph.capture_end()
        with contextlib.suppress(RuntimeError):
            graph.pool()  # raises unless the recording itself came to its end: then the graph undoes all of it
            return
        with contextlib.suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(self._device, self._pool)
            torch._C._cuda_releasePool(self._device, self._pool)
        generator = torch.cuda.default_generators[self._device]
        generator.graphsafe_set_state(generator.clone_state())

    def _give_up(self, error: RuntimeError) -> None:
        """Say once what cannot be recorded, and record no more."""
        self.enabled = False
        self._recorded.clear()
        torch.cuda.synchronize()
        print(f"cifarfast: going on without CUDA graphs: {culprit(error)}", file=sys.stderr)


def culprit(error: BaseException) -> str:
    """The line of Python that raised the first error of a chain, and the error's message."""
    while error.__context__ is not None:
        error = error.__context__
    frame = traceback.extract_tb(error.__traceback__)[-1]
    reason = str(error).partition("\n")[0]
    return f"`{frame.line}` ({frame.filename}:{frame.lineno}) cannot be captured ({reason})"
