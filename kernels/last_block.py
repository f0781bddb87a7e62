"""Finishing a reduction in the kernel that began it: the last program to arrive adds up what all of them stored.

Programs store partial results and then call ``is_last_block``, which counts them. The one that is counted last sees
what the others stored, and adds it up in an order that does not depend on who is last: the sum is the same at every
run. It saves the launch of a second kernel, which for small tensors takes longer than its work.
"""

import threading
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

SLOTS = 1 << 19
# the last program reads tiles of so many partial results, and asks for so many tiles before it needs the first: enough
# for memory's latency, and no more than fits into the registers that a kernel's own loop has
REDUCE_TILE = tl.constexpr(512)
LOADS_IN_FLIGHT = tl.constexpr(8)


@triton.jit
def is_last_block(counter_ptr, programs):
    """Count this program; whether it is the last of ``programs``, which sees what all stored before they were counted.

    ``counter_ptr`` points to an int32 that is 0 at first, and is again afterwards. What the last program loads of the
    others' it loads with ``cache_modifier=".cg"``, past the cache of its own multiprocessor.
    """
    # the barrier joins the stores of all threads to the one thread that counts
    tl.debug_barrier()
    last = tl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu") == programs - 1
    if last:
        tl.store(counter_ptr, 0)
    return last


class _Counters:
    """The counters of one device, all zero whenever no kernel runs.

    Kernels that may run at the same time must not share any. Outside CUDA graphs they are handed out in turn from one
    half, so that two launches could share only if half a million were under way at once. What a graph records keeps
    its own from the other half.
    """

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(2 * SLOTS, dtype=torch.int32, device=device)
        self._next = [0, 0]
        self._lock = threading.Lock()

    def take(self, n: int, captured: bool) -> int:
        """The first of ``n`` counters in a row."""
        assert n <= SLOTS
        with self._lock:
            first = self._next[captured]
            if first + n > SLOTS:
                first = 0
            self._next[captured] = first + n
        return captured * SLOTS + first


@cache
def _of_device(device: torch.device) -> _Counters:
    return _Counters(device)


def take_counters(n: int, device: torch.device) -> tuple[Tensor, int]:
    """int32 counters for ``is_last_block``, and the place of the first of ``n`` in a row that are the caller's.

    A device's first are made when they are first asked for, which must not be while a CUDA graph is recorded; nor could
    a kernel be compiled then.
    """
    captured = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    counters = _of_device(device)
    return counters.values, counters.take(n, captured)
