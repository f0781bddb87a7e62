"""The flat optimizer steps against torch.optim, and what they add to it: segments, scalars, EMA, copy, skipping."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from flat_buffers import COPY_DTYPE, LENGTHS, draw, pack, relative_error, unpack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, optim

import cifarfast.kernels as k
from cifarfast.kernels import FlatScalar, FlatTable, flat_scalars, flat_table

SETTINGS = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Rule:
    """A step with its states, and the torch optimizer that it equals."""

    step: Callable[..., None]
    states: int
    torchs: type[optim.Optimizer]
    options: dict[str, Any] = field(default_factory=dict)
    torch_options: dict[str, Any] | None = None

    def torch_optimizer(self, groups: Any, **changes: Any) -> optim.Optimizer:
        options = self.options if self.torch_options is None else self.torch_options
        return self.torchs(groups, **{"lr": 0.01, "foreach": False, **options, **changes})

    def run(
        self, master: Tensor, grad: Tensor, states: list[Tensor], table: FlatTable, scalars: Tensor, **more: Tensor
    ) -> None:
        arguments: list[Any] = list(states)
        if self.step is k.flat_sgd_step and not states:
            arguments = [None]
        if self.step is k.flat_rmsprop_step and len(states) == 1:
            arguments = [*states, None]
        self.step(master, grad, *arguments, table, scalars, **more, **self.options)


NESTEROV = {"momentum": 0.9, "nesterov": True}
DECOUPLED = {"decoupled": True}
RULES = {
    "sgd": Rule(k.flat_sgd_step, 0, optim.SGD),
    "momentum": Rule(k.flat_sgd_step, 1, optim.SGD, {"momentum": 0.9}),
    "nesterov": Rule(k.flat_sgd_step, 1, optim.SGD, NESTEROV),
    "adam": Rule(k.flat_adam_step, 2, optim.Adam, {"betas": (0.8, 0.95)}),
    "adamw": Rule(k.flat_adamw_step, 2, optim.AdamW),
    "nadam": Rule(k.flat_nadam_step, 2, optim.NAdam),
    "nadam decoupled": Rule(k.flat_nadam_step, 2, optim.NAdam, DECOUPLED, {"decoupled_weight_decay": True}),
    "adamax": Rule(k.flat_adamax_step, 2, optim.Adamax),
    "rmsprop": Rule(k.flat_rmsprop_step, 1, optim.RMSprop),
    "rmsprop momentum": Rule(k.flat_rmsprop_step, 2, optim.RMSprop, {"momentum": 0.9, "alpha": 0.9}),
    "adagrad": Rule(k.flat_adagrad_step, 1, optim.Adagrad, {"lr_decay": 0.01}),
}
DECAYS_DECOUPLED = ("adamw", "nadam decoupled")


def _start(rule: Rule, table: FlatTable, device: str, **scalars: float) -> tuple[Tensor, list[Tensor], Tensor]:
    """Weights, zero states and scalars."""
    values = draw(torch.Generator().manual_seed(0), table.lengths)
    master = pack(values, table, device)
    return master, [torch.zeros_like(master) for _ in range(rule.states)], flat_scalars(
        **{"lr": 0.01, **scalars}, device=device
    )  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_100_steps_equal_torch(name: str, backend_name: str, implementation: str) -> None:
    """Weight decay on two of three segments, two learning rates; against torch's single-tensor loop in fp32 and fp64.

    torch rounds 1 − lr·weight_decay to fp32 in every step of a decoupled decay, an error of its own that adds up.
    """
    rule = RULES[name]
    decays, lr_scales = (0.1, 0.0, 0.01), (1.0, 0.5, 1.0)
    steps = 100 if implementation == "cuda" or backend_name == "torch" else 20
    table = flat_table(LENGTHS, weight_decay=decays, lr_scale=lr_scales, device=implementation)
    master, states, scalars = _start(rule, table, implementation)
    torchs = []
    for dtype in (torch.float32, torch.float64):
        weights = [value.to(dtype).requires_grad_() for value in unpack(master.clone(), table)]
        groups = [
            {"params": [w], "weight_decay": decay, "lr": 0.01 * scale}
            for w, decay, scale in zip(weights, decays, lr_scales, strict=True)
        ]
        torchs.append((weights, rule.torch_optimizer(groups)))
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        gradients = draw(generator)
        rule.run(master, pack(gradients, table, implementation), states, table, scalars)
        for weights, optimizer in torchs:
            for w, gradient in zip(weights, gradients, strict=True):
                w.grad = gradient.to(w.dtype)
            optimizer.step()
    ours, (fp32, fp64) = unpack(master, table), (weights for weights, _ in torchs)
    assert relative_error(ours, fp64) < TOLERANCE
    own_error = relative_error(fp32, fp64) if name in DECAYS_DECOUPLED else 0.0
    assert relative_error(ours, fp32) < TOLERANCE + own_error
    assert scalars[FlatScalar.STEP] == steps


@pytest.mark.parametrize("name", RULES)
def test_padding_stays_zero(name: str, implementation: str) -> None:
    table = flat_table(LENGTHS, weight_decay=0.1, l2=0.1, device=implementation)
    master, states, scalars = _start(RULES[name], table, implementation, ema_decay=0.9)
    ema, copy = torch.zeros_like(master), torch.full_like(master, torch.nan, dtype=COPY_DTYPE)
    for seed in range(3):
        gradient = pack(draw(torch.Generator().manual_seed(seed)), table, implementation)
        RULES[name].run(master, gradient, states, table, scalars, ema=ema, copy=copy)
    padding = pack([torch.ones(length) for length in LENGTHS], table, implementation) == 0
    for buffer in (master, ema, copy):
        assert (buffer[padding] == 0).all()


@pytest.mark.parametrize("name", ["nesterov", "adamw", "nadam"])
def test_frozen_segment_keeps_its_bits(name: str, implementation: str) -> None:
    rule = RULES[name]
    table = flat_table(LENGTHS, weight_decay=0.1, lr_scale=(1.0, 0.0, 2.0), device=implementation)
    master, states, scalars = _start(rule, table, implementation)
    copy = torch.full_like(master, torch.nan, dtype=COPY_DTYPE)
    before = [buffer.clone() for buffer in (master, *states)]
    gradient = torch.full_like(master, torch.nan)
    for i in (0, 2):
        gradient[table.offsets[i] : table.offsets[i] + table.lengths[i]] = 0.5
    rule.run(master, gradient, states, table, scalars, copy=copy)
    for old, new in zip(before, (master, *states), strict=True):
        a, b = unpack(old, table), unpack(new, table)
        assert torch.equal(a[1], b[1])
        assert not torch.equal(a[0], b[0])
        assert not torch.equal(a[2], b[2])
    assert torch.equal(unpack(copy, table)[1], unpack(master, table)[1].to(COPY_DTYPE))


def test_a_skipped_step_only_restores_the_copy(implementation: str) -> None:
    rule = RULES["nadam"]
    table = flat_table(LENGTHS, weight_decay=0.1, device=implementation)
    master, states, scalars = _start(rule, table, implementation, ema_decay=0.5)
    ema, copy = master + 1, torch.full_like(master, torch.nan, dtype=COPY_DTYPE)
    before = [buffer.clone() for buffer in (master, *states, ema)]
    scalars[FlatScalar.SKIP] = 1
    rule.run(master, torch.full_like(master, torch.nan), states, table, scalars, ema=ema, copy=copy)
    assert all(torch.equal(old, new) for old, new in zip(before, (master, *states, ema), strict=True))
    assert torch.equal(copy, master.to(COPY_DTYPE))
    assert scalars[FlatScalar.STEP] == 0
    assert scalars[FlatScalar.MU_PRODUCT] == 1
    scalars[FlatScalar.SKIP] = 0
    rule.run(master, torch.ones_like(master), states, table, scalars, ema=ema, copy=copy)
    assert scalars[FlatScalar.STEP] == 1
    assert master.isfinite().all()
    assert not torch.equal(master, before[0])


def test_l2_is_the_gradient_of_a_penalty(implementation: str) -> None:
    table = flat_table([3], l2=0.25, device=implementation)
    master = pack([torch.tensor([1.0, -2.0, 4.0])], table, implementation)
    scalars = flat_scalars(lr=0.5, device=implementation)
    k.flat_sgd_step(master, torch.zeros_like(master), None, table, scalars)
    assert unpack(master, table)[0].tolist() == [0.75, -1.5, 3.0]


def test_decoupled_sgd(implementation: str) -> None:
    table = flat_table([2], weight_decay=0.5, device=implementation)
    master = pack([torch.tensor([1.0, -2.0])], table, implementation)
    buffer, scalars = torch.zeros_like(master), flat_scalars(lr=0.5, device=implementation)
    k.flat_sgd_step(master, torch.ones_like(master), buffer, table, scalars, momentum=0.5, decoupled=True)
    assert unpack(master, table)[0].tolist() == [1 - 0.25 - 0.5, -2 + 0.5 - 0.5]
    assert unpack(buffer, table)[0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", ["nesterov", "adam"])
def test_learning_rate_changes_on_the_device(name: str, implementation: str) -> None:
    rule = RULES[name]
    table = flat_table(LENGTHS, device=implementation)
    master, states, scalars = _start(rule, table, implementation)
    weights = [w.clone().requires_grad_() for w in unpack(master.clone(), table)]
    optimizer = rule.torch_optimizer(weights)
    generator = torch.Generator().manual_seed(1)
    for lr in (0.1, 0.01, 0.0, 0.2):
        gradients = draw(generator)
        scalars[FlatScalar.LR] = lr
        rule.run(master, pack(gradients, table, implementation), states, table, scalars)
        for w, gradient in zip(weights, gradients, strict=True):
            w.grad = gradient
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
    assert relative_error(unpack(master, table), weights) < TOLERANCE


def test_gradient_with_a_loss_scale(dtype: torch.dtype, implementation: str) -> None:
    """A scaled gradient in any dtype gives the bits that its unscaled fp32 value gives."""
    results = []
    for scale, grad_dtype in ((1.0, torch.float32), (256.0, dtype)):
        table = flat_table(LENGTHS, device=implementation)
        master, states, scalars = _start(RULES["adam"], table, implementation, grad_scale=1 / scale)
        gradient = pack(draw(torch.Generator().manual_seed(2)), table, implementation).to(dtype)
        RULES["adam"].run(master, (gradient * scale).to(grad_dtype), states, table, scalars)
        results.append(master)
    assert torch.equal(*results)


@SETTINGS
@given(
    lengths=st.lists(st.integers(1, 1300), min_size=1, max_size=4),
    missing=st.integers(0, 1023),
    name=st.sampled_from(sorted(RULES)),
    seed=st.integers(0, 100),
)
def test_segments_do_not_change_the_result(
    lengths: list[int], missing: int, name: str, seed: int, implementation: str
) -> None:
    """With equal settings everywhere, many segments and a cut tail give the bits of one segment."""
    rule = RULES[name]
    table = flat_table(lengths, weight_decay=0.1, device=implementation)
    n = table.length - missing
    generator = torch.Generator().manual_seed(seed)
    start, gradient = (torch.randn(table.length, generator=generator).to(implementation) for _ in range(2))
    results = []
    for tables, length in ((table, n), (flat_table([table.length], weight_decay=0.1, device=implementation), None)):
        master = start[:length].clone()
        states = [torch.zeros_like(master) for _ in range(rule.states)]
        scalars = flat_scalars(lr=0.1, ema_decay=0.3, device=implementation)
        ema, copy = torch.zeros_like(master), torch.full_like(master, torch.nan, dtype=COPY_DTYPE)
        rule.run(master, gradient[:length].clone(), states, tables, scalars, ema=ema, copy=copy)
        assert torch.equal(copy, master.to(COPY_DTYPE))
        results.append([buffer[:n] for buffer in (master, *states, ema, copy)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("decay", [0.0, 1.0, 0.9])
def test_ema_in_the_step(decay: float, implementation: str) -> None:
    rule = RULES["nesterov"]
    table = flat_table(LENGTHS, device=implementation)
    master, states, scalars = _start(rule, table, implementation, ema_decay=decay)
    ema = pack(draw(torch.Generator().manual_seed(5)), table, implementation)
    before = ema.clone()
    rule.run(master, torch.ones_like(master), states, table, scalars, ema=ema)
    torch.testing.assert_close(ema, before.lerp(master, 1 - decay), rtol=2e-7, atol=2e-7)
    if decay in (0.0, 1.0):
        assert torch.equal(ema, before if decay else master)


def test_compiled_step_writes_the_buffers_themselves() -> None:
    """Not clones of them, which are copied back: buffers may have millions of elements."""
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    rule, table = RULES["nesterov"], flat_table(LENGTHS)
    master, states, scalars = _start(rule, table, "cpu")
    expected = [buffer.clone() for buffer in (master, *states, scalars)]
    rule.run(expected[0], torch.ones_like(master), expected[1:2], table, expected[2])
    torch.compiler.reset()
    torch.compile(rule.run, fullgraph=True, backend=keep)(master, torch.ones_like(master), states, table, scalars)
    called = [node.target for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert torch.ops.cifarfast.flat_optimizer.default in called
    assert not {torch.ops.cifarfast.flat_optimizer_functional.default, torch.ops.aten.copy_.default} & {*called}
    assert all(torch.equal(a, b) for a, b in zip((master, *states, scalars), expected, strict=True))


def test_weights_that_require_a_gradient(implementation: str) -> None:
    table = flat_table([4], device=implementation)
    master = pack([torch.ones(4)], table, implementation).requires_grad_()
    k.flat_sgd_step(master, torch.ones_like(master), None, table, flat_scalars(lr=0.5, device=implementation))
    assert unpack(master.detach(), table)[0].tolist() == [0.5] * 4
    assert master.is_leaf


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["nesterov", "adamw", "nadam"])
def test_captured_graph_reads_new_scalars(name: str) -> None:
    rule, device = RULES[name], "cuda"
    table = flat_table(LENGTHS, weight_decay=0.01, device=device)
    results = []
    for captured in (False, True):
        master, states, scalars = _start(rule, table, device, ema_decay=0.9)
        gradient = pack(draw(torch.Generator().manual_seed(3)), table, device)
        start = [buffer.clone() for buffer in (master, *states, scalars)]
        rule.run(master, gradient, states, table, scalars)  # compiles
        for buffer, value in zip((master, *states, scalars), start, strict=True):
            buffer.copy_(value)
        graph = torch.cuda.CUDAGraph()
        if captured:
            with torch.cuda.graph(graph):
                rule.run(master, gradient, states, table, scalars)
        for lr in (0.1, 0.05, 0.2):
            scalars[FlatScalar.LR] = lr
            gradient.mul_(-0.7)
            if captured:
                graph.replay()
            else:
                rule.run(master, gradient, states, table, scalars)
        results.append(master)
    assert torch.equal(*results)
