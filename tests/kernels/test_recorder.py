"""What a recorded launch says, and that nothing is left of recording afterwards."""

import pickle

import pytest
import torch

from cifarfast.kernels import backend, conv2d, flat_ema, flat_scalars
from cifarfast.kernels.testing.recorder import Launch, names, record
from cifarfast.kernels.tuning import tables as tuning

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(triton.knobs.runtime.interpret, reason="the interpreter launches nothing")


def ema_launch(n: int, device: str = "meta") -> Launch:
    with record() as launches:
        flat_ema(torch.empty(n, device=device), torch.empty(n, device=device), flat_scalars(lr=0.1, device=device))
    (launch,) = launches
    return launch


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_what_the_launcher_is_told(device: str) -> None:
    launch, (row,) = ema_launch(1 << 20, device), tuning.load("NVIDIA H200")["flat_ema"]
    assert launch.name == "flat_ema_kernel"
    assert launch.grid == ((1 << 20) // row["block"],)
    pointers = {"ema_ptr": "*fp32", "master_ptr": "*fp32", "scalars_ptr": "*fp64"}
    assert {name: kind for name, kind in launch.signature.items() if kind != "constexpr"} == {**pointers, "n": "i32"}
    assert launch.settings == {"EVEN": True, "BLOCK": row["block"]}
    runtime = [kind != "constexpr" for kind in launch.signature.values()]
    # 16 divides every argument; a newer Triton says so of compile-time ones too
    assert {place for place in launch.attributes if runtime[place[0]]} == {(0,), (1,), (2,), (3,)}
    assert launch.options["num_warps"] == row["num_warps"]
    path, _, line = launch.line.rpartition(":")
    assert path.endswith("flat/triton_common.py")
    assert line.isdigit()
    assert pickle.loads(pickle.dumps(launch)) == launch


def test_integers_make_other_code_but_no_other_variant() -> None:
    divisible, odd, one = (ema_launch(1024 * 8 * factor + tail) for factor, tail in ((3, 16), (3, 17), (0, 1)))
    assert len({divisible.code, odd.code, one.code}) == 3
    assert divisible.variant == odd.variant == one.variant
    assert one.signature["n"] == "constexpr"
    assert ema_launch(1024 * 8).variant != odd.variant  # which needs masks


def test_an_architecture_decides_on_descriptors() -> None:
    x = torch.empty(2, 64, 8, 8, dtype=torch.bfloat16, device="meta").contiguous(memory_format=torch.channels_last)
    weight = torch.empty(64, 64, 3, 3, dtype=torch.bfloat16, device="meta")
    for arch, expected in (("sm_80", False), ("sm_90", True), ("sm_100", True)):
        with record(arch) as launches:
            conv2d(x, weight.contiguous(memory_format=torch.channels_last), padding=1)
        (launch,) = launches
        assert launch.settings["USE_TMA"] == expected
        assert launch.options["arch"] == arch.replace("_", "")


def test_a_grid_that_cuda_would_refuse() -> None:
    from cifarfast.kernels.flat.triton_impl import flat_ema_kernel

    for grid in ((0,), (2**31,), (1, 65536)):
        with record() as launches, pytest.raises(ValueError, match="flat_ema_kernel: grid"):
            flat_ema_kernel[grid](None, None, None, 1, EVEN=True, BLOCK=16)
        assert not names(launches)


def test_afterwards_all_is_as_before() -> None:
    run = triton.runtime.jit.JITFunction.run
    with record():
        assert backend.choose("flat_ema", torch.device("cpu")).backend == "triton"
    assert triton.runtime.jit.JITFunction.run is run
    assert backend.choose("flat_ema", torch.device("cpu")).backend == "torch"
    ema = torch.zeros(5)
    flat_ema(ema, torch.ones(5), flat_scalars(lr=0.1, ema_decay=0.5))
    assert ema.tolist() == [0.5] * 5
