"""What a function allocates from torch's allocator on the CPU, inside custom ops too."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def allocations(function: Callable[[], object]) -> list[int]:
    """Bytes of every allocation in order, negative where memory is given back."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as log:
        result = function()
        del result
    return [event.nbytes() for event in log.profiler.kineto_results.events() if event.name() == "[memory]"]
