"""Reductions that a kernel's last program finishes: in Triton's interpreter, in PTX, and on a GPU under load."""

import os
import re

import pytest
import torch
from torch import Tensor

from cifarfast.kernels import last_block as last_block
from cifarfast.kernels.last_block import is_last_block, take_counters

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_interpreter = pytest.mark.skipif(not INTERPRETED, reason="interpreted elsewhere")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = [
    pytest.param("cpu", id="triton-cpu", marks=needs_interpreter),
    pytest.param("cuda", id="triton-cuda", marks=[pytest.mark.gpu, needs_gpu]),
]
BLOCK = 64
PARTS = 1024


@triton.jit(do_not_specialize=["n", "first_counter"])
def sum_kernel(  # type: ignore[no-untyped-def]
    x_ptr,  # [n]
    partials_ptr,  # [programs]
    out_ptr,  # []
    counters_ptr,
    n,
    first_counter,
    REVERSED: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    """``out = Σ x``; if REVERSED the first program to run takes the last block of x."""
    programs = tl.num_programs(0)
    part = programs - 1 - tl.program_id(0) if REVERSED else tl.program_id(0)
    index = part * BLOCK + tl.arange(0, BLOCK)
    tl.store(partials_ptr + part, tl.sum(tl.load(x_ptr + index, mask=index < n, other=0.0), axis=0))
    if is_last_block(counters_ptr + first_counter, programs):
        parts = tl.arange(0, PARTS)
        partials = tl.load(partials_ptr + parts, mask=parts < programs, other=0.0, cache_modifier=".cg")
        tl.store(out_ptr, tl.sum(partials, axis=0))


@triton.jit
def shift_kernel(x_ptr, partials_ptr, out_ptr, counter_ptr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The last program reads what all threads of the others stored, which nothing but ``is_last_block`` waits for."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(partials_ptr + index, tl.load(x_ptr + index))
    if is_last_block(counter_ptr, tl.num_programs(0)):
        tl.store(out_ptr + index, tl.load(partials_ptr + BLOCK - index, cache_modifier=".cg"))


def total(x: Tensor, *, reverse: bool = False) -> Tensor:
    """``Σ x`` with ``sum_kernel``."""
    programs = triton.cdiv(x.numel(), BLOCK)
    partials, out = x.new_full((programs,), torch.nan), x.new_full((), torch.nan)
    counters, first = take_counters(1, x.device)
    sum_kernel[(programs,)](x, partials, out, counters, x.numel(), first, REVERSED=reverse, BLOCK=BLOCK, PARTS=PARTS)
    return out


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("programs", [1, 2, 37])
def test_the_last_program_sees_all_partial_sums(programs: int, device: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(programs * BLOCK - 3, device=device)
    sums = [total(x), total(x), total(x, reverse=True)]
    torch.testing.assert_close(sums[0].double(), x.double().sum(), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, sums[0]) for value in sums), "depends on which program is last"
    counters, first = take_counters(1, x.device)
    assert first > 0
    assert not counters.any(), "a counter was not put back"


def test_counters_in_a_row_and_from_the_beginning_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_block, "SLOTS", 8)
    counters = last_block._Counters(torch.device("cpu"))
    assert counters.values.dtype == torch.int32
    assert not counters.values.any()
    # a row is not split: the 5 that do not fit behind the sixth counter begin anew
    assert [counters.take(n, False) for n in (5, 3, 1, 5, 5, 8)] == [0, 5, 0, 1, 0, 0]
    assert [counters.take(n, True) for n in (6, 2, 1)] == [8, 14, 8]
    assert counters.take(1, False) == 0
    assert counters.values.numel() == 16


def test_a_recorded_graph_has_counters_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = last_block._Counters(torch.device("cpu"))
    monkeypatch.setattr(last_block, "_of_device", lambda device: shared)
    firsts = []
    for capturing in (False, True, True, False):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda capturing=capturing: capturing)
        counters, first = take_counters(3, torch.device("cuda", 0))
        assert counters is shared.values
        firsts.append(first)
    assert firsts == [0, last_block.SLOTS, last_block.SLOTS + 3, 3]


def test_a_cpu_has_no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    counters, first = take_counters(2, torch.device("cpu"))
    assert counters.device.type == "cpu"
    assert first < last_block.SLOTS


@pytest.mark.skipif(INTERPRETED, reason="interpreted kernels cannot be compiled")
def test_a_barrier_and_an_acquiring_releasing_count() -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {"x_ptr": "*fp32", "partials_ptr": "*fp32", "out_ptr": "*fp32", "counter_ptr": "*i32", "BLOCK": "constexpr"}
    source = ASTSource(shift_kernel, types, {"BLOCK": 512})
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    letters = {"ld.global": "l", "st.global": "s", "bar.sync": "b", "acq_rel": "a", "ld.global.cg": "c"}
    order = "".join(letters[step] for step in re.findall(r"ld\.global(?:\.cg)?|st\.global|bar\.sync|acq_rel", ptx))
    # loads, all threads' stores, a barrier, the count and its way to all threads, the counter put back, others' results
    assert re.fullmatch(r"l+s+b+ab+sc+b*s+", order), order


@pytest.mark.gpu
def test_streams_and_a_graph_at_the_same_time() -> None:
    torch.manual_seed(0)
    xs = [torch.randn(PARTS * BLOCK - i, device="cuda") for i in range(3)]
    expected = [total(x) for x in xs]
    graph, recorded = torch.cuda.CUDAGraph(), []
    with torch.cuda.graph(graph):
        recorded += [total(xs[2]) for _ in range(20)]
    streams = [torch.cuda.Stream() for _ in range(3)]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream())
    found: list[list[Tensor]] = [[], []]
    wrong = torch.zeros((), dtype=torch.int64, device="cuda")
    for _ in range(50):
        for i in range(2):
            with torch.cuda.stream(streams[i]):
                found[i] += [total(xs[i]) for _ in range(20)]
        with torch.cuda.stream(streams[2]):
            graph.replay()
            wrong += sum(value != expected[2] for value in recorded)
            for value in recorded:
                value.fill_(torch.nan)
    torch.cuda.synchronize()
    for i in range(2):
        assert all(torch.equal(value, expected[i]) for value in found[i])
    assert wrong.item() == 0
    assert not take_counters(1, xs[0].device)[0].any()
