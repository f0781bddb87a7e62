"""What the tuner checks before it times: on a GPU, and in Triton's interpreter (see test_triton_interpreter.py)."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cifarfast.kernels.testing.spec import OpSpec, SampleMaker, all_specs
from cifarfast.kernels.tuning.tables import override, tile

pytest.importorskip("triton")
needs_interpreter = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="interpreted elsewhere")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = [
    pytest.param("cpu", id="triton-cpu", marks=needs_interpreter),
    pytest.param("cuda", id="triton-cuda", marks=[pytest.mark.gpu, needs_gpu]),
]


def spec_of(name: str) -> OpSpec:
    return next(spec for spec in all_specs() if spec.name == name)


@pytest.mark.parametrize("device_name", DEVICES)
@pytest.mark.parametrize("part", ["fwd", "dgrad", "wgrad"])
@pytest.mark.parametrize("op", ["conv2d", "bn_act_conv2d"])
def test_a_wrong_convolution_is_not_timed(
    op: str, part: str, device_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cifarfast.kernels.convolution import triton_impl
    from cifarfast.kernels.tuner.measure import LoadedPart

    spec = spec_of(op)
    loaded = LoadedPart(spec, part, spec.cases["boxes"](SampleMaker(torch.float16, device_name)))
    with override({op: tile(op, 16, torch.device("cpu"))}):
        loaded.check()
        loaded.step()
        monkeypatch.setattr(triton_impl, f"conv_{part}", scaled(getattr(triton_impl, f"conv_{part}")))
        with pytest.raises(AssertionError, match="result 0"):
            loaded.check()


def scaled(launch: Callable[..., Any]) -> Callable[..., Any]:
    """The same with a first result that is 2 % too large."""

    def wrong(*args: Any, **kwargs: Any) -> Any:
        result = launch(*args, **kwargs)
        return (result[0] * 1.02, *result[1:]) if isinstance(result, tuple) else result * 1.02

    return wrong


@pytest.mark.parametrize("device_name", DEVICES)
def test_a_wrong_op_is_not_timed(device_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from cifarfast.kernels.flat import triton_impl
    from cifarfast.kernels.tuner.measure import LoadedOp

    spec = spec_of("flat_ema")
    loaded = LoadedOp(spec, spec.cases["even"](SampleMaker(torch.float32, device_name)))
    if device_name == "cpu":
        monkeypatch.setenv("CIFARFAST_BACKEND", "triton")
    loaded.check()
    monkeypatch.setattr(triton_impl, "flat_ema", lambda ema, master, scalars: None)
    with pytest.raises(AssertionError, match="output 0"):
        loaded.check()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("op", ["batch_norm_act", "cross_entropy", "conv2d"])
def test_a_row_is_measured(op: str) -> None:
    from cifarfast.kernels.tuner.measure import Bench
    from cifarfast.kernels.tuner.workloads import workloads

    workload = workloads(op)[0]
    row = tile(op, workload.size, torch.device("cpu"))
    assert 0 < Bench()(workload, row) < 1


@pytest.mark.gpu
@needs_gpu
def test_spills_are_seen() -> None:
    import triton
    import triton.language as tl

    from cifarfast.kernels.tuner.measure import spilled_bytes

    @triton.jit
    def greedy_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
        rows = tl.arange(0, BLOCK)
        x = tl.load(x_ptr + rows)
        product = x[:, None] * x[None, :]  # needed whole before the maximum of it is known
        tl.store(out_ptr + rows[:, None] * BLOCK + rows[None, :], product / tl.max(product))

    for block, spills in ((128, True), (16, False)):
        x = torch.rand(block, device="cuda")
        out = torch.empty(block, block, device="cuda")
        spilled = spilled_bytes(lambda: greedy_kernel[(1,)](x, out, BLOCK=block, num_warps=1))  # noqa: B023
        assert (spilled > 0) == spills
        torch.testing.assert_close(out, x.outer(x) / x.max() ** 2)
