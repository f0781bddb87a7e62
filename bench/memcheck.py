"""Every kernel once on small inputs, for a memory checker to watch: ``compute-sanitizer python -m bench.memcheck``.

Of an op the smallest cases of its OpSpec run, forward and backward, until each of its Triton kernels has been launched.
A line for each op says which; the exit code is 1 if an op fails. Set PYTORCH_NO_CUDA_MEMORY_CACHING=1, so that each
tensor is an allocation of its own and an access beside it is noticed. After the ops come what they launch only one
after the other, and the augmentation.
"""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cifarfast.augment import Augment, AutoAugment, CutMix, Cutout, RandomCrop, RandomFlip, RandomRotation
from cifarfast.kernels import batch_norm_act, bn_act_conv2d, conv2d, global_avg_pool_act, shakedrop_bn_shortcut
from cifarfast.kernels.backend import BACKEND_VARIABLE
from cifarfast.kernels.testing.check import run
from cifarfast.kernels.testing.compile_report import builds
from cifarfast.kernels.testing.recorder import names
from cifarfast.kernels.testing.spec import OpSpec, SampleMaker, all_specs


@dataclass
class Checked:
    """What ran of an op."""

    op: str
    kernels: set[str]
    """Its kernels, by the compile report."""
    cases: list[str] = field(default_factory=list)
    launched: set[str] = field(default_factory=set)

    def line(self) -> str:
        """In words."""
        missing = sorted(self.kernels - self.launched)
        ran = f"{len(self.kernels) - len(missing)} of {len(self.kernels)} kernels"
        text = f"{self.op}: {ran} in {', '.join(self.cases)}"
        return text + (f"; not launched: {', '.join(missing)}" if missing else "")


def by_size(spec: OpSpec) -> list[str]:
    """The op's cases, the smallest first."""

    def elements(case: str) -> int:
        inputs = spec.cases[case](SampleMaker(torch.float32))
        return sum(value.numel() for value in inputs.values() if isinstance(value, Tensor))

    return sorted(spec.cases, key=elements)


def check_op(spec: OpSpec, kernels: set[str], run_case: Callable[[str], set[str]]) -> Checked:
    """Run cases until each of the kernels was launched; ``run_case`` returns the names of those that one launches."""
    checked = Checked(spec.name, kernels)
    for case in by_size(spec):
        new = run_case(case) & checked.kernels - checked.launched
        if new or not checked.cases:
            checked.cases.append(case)
            checked.launched |= new
        if checked.launched == checked.kernels:
            break
    return checked


@contextmanager
def launches() -> Iterator[set[str]]:
    """The names of the Triton kernels that are launched inside."""
    import triton

    launched: set[str] = set()

    def note(metadata: Any) -> None:
        launched.add(metadata.get()["name"])

    hooks = triton.knobs.runtime.launch_enter_hook
    hooks.add(note)
    try:
        yield launched
    finally:
        hooks.remove(note)


def run_on_gpu(spec: OpSpec) -> Callable[[str], set[str]]:
    """A function that runs a case of an op in bf16, or what it has instead, and returns what it launched."""
    dtype = torch.bfloat16 if torch.bfloat16 in spec.dtypes else spec.dtypes[0]

    def run_case(case: str) -> set[str]:
        with launches() as launched:
            run(spec, spec.function, spec.cases[case](SampleMaker(dtype, "cuda")))
            torch.cuda.synchronize()
        return set(launched)

    return run_case


def check_on_gpu(spec: OpSpec) -> Checked:
    """``check_op`` of all kernels that the compile report has of an op."""
    return check_op(spec, names(build.launch for build in builds([spec.name], ["sm_90"])), run_on_gpu(spec))


def augment_once() -> None:
    """The augmentation kernel with and without shared memory, mixing and padding channels."""
    images = torch.randint(0, 256, (40, 32, 32, 3), dtype=torch.uint8, device="cuda")
    labels = torch.arange(40, device="cuda") % 10
    indices = torch.arange(0, 40, 3, device="cuda")
    for transforms, channels in (
        ([RandomCrop(4), RandomFlip(), Cutout(8)], None),
        ([RandomCrop(4), RandomFlip(), RandomRotation(15.0), AutoAugment(), CutMix(1.0)], 8),
    ):
        augment = Augment(
            transforms,
            *((0.5,) * 3, (0.25,) * 3),
            dtype=torch.bfloat16,
            backend="native",
            pad_channels=channels,
        )
        augment(images, labels, indices, 1)
        augment.check()


def hand_statistics_on(device: str) -> None:
    """What no op's own cases launch: convolutions and tails that make statistics for the batch norm after them, with
    both kinds of running average; those of eval.
    """
    make = SampleMaker(torch.bfloat16, device)
    norms = [nn.BatchNorm2d(16, momentum=momentum, device=device) for momentum in (0.1, None, 0.1, None, 0.1)]
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    first, second, third, fourth, last = (
        {**{name: getattr(norm, name) for name in (*buffers, "weight", "bias", "momentum")}, "training": True}
        for norm in norms
    )
    x = make.randn(2, 16, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    kernel = make.randn(16, 16, 3, 3, scale=0.1).contiguous(memory_format=torch.channels_last).requires_grad_()
    y, given = conv2d(x, kernel, padding=1, next_norm=norms[0])
    options = {"padding": 1, "return_input": True}
    shortcut, y, given = bn_act_conv2d(y, kernel, **first, **options, statistics=given, next_norm=norms[1])
    h, given = bn_act_conv2d(y, kernel, **second, padding=1, statistics=given, next_norm=norms[2])
    y, given = shakedrop_bn_shortcut(h, shortcut, **third, statistics=given, next_norm=norms[3])
    y, branch = batch_norm_act(y, **fourth, statistics=given, return_input=True)
    y, given = shakedrop_bn_shortcut(branch, y, **third, next_norm=norms[4])
    global_avg_pool_act(y, **last, statistics=given).sum().backward()
    with torch.no_grad():
        bn_act_conv2d(x, kernel, **{**first, "training": False}, padding=1)


def main() -> int:
    """Check everything; return the exit code."""
    failed = False
    for spec in all_specs():
        # also where the tuning table says that a library is faster
        os.environ[BACKEND_VARIABLE] = "triton" if "triton" in spec.backends else spec.backends[0]
        failed |= not _succeeds(spec.name, lambda spec=spec: print(check_on_gpu(spec).line(), flush=True))
    os.environ[BACKEND_VARIABLE] = "triton"
    failed |= not _succeeds("statistics handed on", lambda: hand_statistics_on("cuda"))
    os.environ.pop(BACKEND_VARIABLE)
    failed |= not _succeeds("augmentation", augment_once)
    print("all ops done", flush=True)
    return int(failed)


def _succeeds(name: str, launch: Callable[[], None]) -> bool:
    """Launch, and say so; an error is printed, and False."""
    # what the memory checker prints from here on is about this
    print(f"{name} begins", flush=True)
    try:
        launch()
        torch.cuda.synchronize()
    except Exception as error:
        traceback.print_exc()
        print(f"{name}: failed: {type(error).__name__}: {error}", flush=True)
        return False
    print(f"{name} done", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
