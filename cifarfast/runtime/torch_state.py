"""What is global in torch, set as this package needs it and put back."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def own_torch_state() -> Iterator[None]:
    """Context, or decorator, for what uses torch inside a caller's program.

    Inside, new tensors are fp32 and gradients can be computed, whatever the caller has set. Afterwards the default type
    and torch's global generators, of the CPU and of every GPU that is in use, are as they were.
    """
    dtype = torch.get_default_dtype()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
