"""Runs programs with the compiled extension: a Job full of addresses for the CPU twin or the CUDA kernel."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from cifarfast.runtime import native_build

from .compiled import Compiled

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def usable(device: torch.device) -> ModuleType | None:
    """The extension if it can run on this kind of device; builds it on first use in a checkout."""
    if device.type not in ("cpu", "cuda"):
        return None
    module = native_build.load()
    return module if module is not None and (device.type == "cpu" or module.with_cuda) else None


def why_not(device: torch.device) -> str:
    """One line on why there is no compiled implementation for the device."""
    status = native_build.status()
    if status.available and device.type == "cuda":
        return f"the compiled augmentation has no CUDA code ({status.reason})"
    return f"there is no compiled augmentation for {device.type} ({status.reason})"


def make_job(module: ModuleType, compiled: Compiled, *, seed: int, out_channels: int, channels_last: bool) -> Any:
    """A Job with everything that does not change from call to call."""
    program = compiled.program
    job = module.Job()
    job.seed = seed
    job.height, job.width, job.channels = program.size.height, program.size.width, program.size.channels
    job.rows, job.policy = compiled.rows.data_ptr(), compiled.policy.data_ptr()
    job.settings, job.quantiles = compiled.settings.data_ptr(), compiled.quantiles.data_ptr()
    job.scale_bias = compiled.scale_bias.data_ptr()
    job.bad_index = compiled.bad_index.data_ptr()
    job.row_count, job.step_count = len(program.rows), program.steps
    job.cutout_length, job.cutout_count = program.cutout_length, program.cutout_count
    job.staged = int(program.staged)
    job.mixes, job.mix_per_batch = int(program.mixes), int(program.mix_per_batch)
    job.out_height, job.out_width, job.out_channels = program.out_height, program.out_width, out_channels
    job.nearest_resize, job.channels_last = int(program.nearest_resize), int(channels_last)
    return job


def run(
    module: ModuleType,
    template: Any,
    images: Tensor,
    labels: Tensor,
    indices: Tensor,
    epoch: Tensor,
    *,
    pool: Tensor | None,
    batch_key: Tensor,
    augmented_copy: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """One batch: (images [B, C, H, W] in ``dtype``, labels, labels_b, lam); nothing is waited for on a GPU."""
    job = module.Job(template)
    batch, device = len(indices), images.device
    shape = (batch, job.out_height, job.out_width, job.out_channels)
    if not job.channels_last:
        shape = (batch, job.out_channels, job.out_height, job.out_width)
    out = torch.empty(shape, dtype=dtype, device=device)
    labels_a = torch.empty_like(indices)
    labels_b = torch.empty_like(indices) if job.mixes else None
    lam = torch.empty(batch, dtype=torch.float32, device=device) if job.mixes else None
    job.images, job.labels, job.indices = images.data_ptr(), labels.data_ptr(), indices.data_ptr()
    job.batch_key = batch_key.data_ptr()
    job.epoch, job.count, job.batch = epoch.data_ptr(), len(images), batch
    job.pool, job.pool_size = (0, 0) if pool is None else (pool.data_ptr(), len(pool))
    job.augmented_copy, job.dtype = int(augmented_copy), DTYPES[dtype]
    job.out, job.labels_a = out.data_ptr(), labels_a.data_ptr()
    if labels_b is not None and lam is not None:
        job.labels_b, job.lam = labels_b.data_ptr(), lam.data_ptr()
    if device.type == "cpu":
        module.augment_cpu(job, torch.get_num_threads())
    else:
        with torch.cuda.device(device):
            size = module.augment_cuda_scratch(job)
            scratch = torch.empty(size, dtype=torch.uint8, device=device) if size else None
            job.scratch = 0 if scratch is None else scratch.data_ptr()
            module.augment_cuda(job, torch.cuda.current_stream().cuda_stream)
    return (out.permute(0, 3, 1, 2) if job.channels_last else out), labels_a, labels_b, lam
