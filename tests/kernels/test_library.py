"""What ``kernels/library.py`` makes of a declaration, on the ops of ``toy_op``."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cifarfast.kernels import backend
from cifarfast.kernels.library import operator


@pytest.fixture(scope="module")
def toy() -> Iterator[ModuleType]:
    """The toy ops, known to ``backend`` while these tests run: it has no spec, which other tests would look for."""
    from toy_op import op

    yield op
    for known in (backend._registered, backend._packages):
        known.pop("toy_op", None)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager")


HOW = pytest.mark.parametrize("how", [lambda function: function, _compiled], ids=["eager", "compiled"])
BUFFER = pytest.mark.parametrize("with_buffer", [True, False], ids=["buffer", "no buffer"])


def _inputs(with_buffer: bool = True) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    x = torch.arange(6.0).view(3, 2).requires_grad_()
    scale, shift = torch.tensor(2.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    return x, torch.zeros(2) if with_buffer else None, scale, shift


@HOW
@BUFFER
def test_values_gradients_and_buffer(how: Callable[..., Any], with_buffer: bool, toy: ModuleType) -> None:
    x, buffer, scale, shift = _inputs(with_buffer)

    def function(x: Tensor, buffer: Tensor | None, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        return toy.line(x, toy.Running(buffer, 0.5), toy.Affine(scale, shift))

    y, mean = how(function)(x, buffer, scale, shift)
    assert torch.equal(y, 2 * x + 1)
    assert torch.equal(mean, x.mean(0))
    assert y.requires_grad
    assert not mean.requires_grad
    y.sin().sum().backward()
    slope = y.detach().cos()
    torch.testing.assert_close(x.grad, 2 * slope)
    torch.testing.assert_close(scale.grad, (slope * x.detach()).sum())
    torch.testing.assert_close(shift.grad, slope.sum())
    if buffer is not None:
        assert torch.equal(buffer, 0.5 * mean)
        assert buffer._version > 0


def test_a_write_is_seen_by_autograd(toy: ModuleType) -> None:
    x, buffer, scale, _ = _inputs()
    product = x * buffer  # keeps the buffer
    toy.line(x, toy.Running(buffer, None), toy.Affine(scale, None))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_a_buffer_of_inference_mode_is_written(toy: ModuleType) -> None:
    with torch.inference_mode():
        x, buffer, scale, _ = _inputs()
        y, mean = toy.line(x, toy.Running(buffer, None), toy.Affine(scale, None))
    assert torch.equal(buffer, mean)
    assert not y.requires_grad


@HOW
@pytest.mark.parametrize("used", ["both", "x", "y"])
def test_returned_input(how: Callable[..., Any], used: str, toy: ModuleType) -> None:
    x, buffer, scale, shift = _inputs()

    def function(x: Tensor, buffer: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        returned, y, _ = toy.line.returning_input(x, toy.Running(buffer, 0.5), toy.Affine(scale, shift))
        return {"both": returned.square() + y.sin(), "x": returned.square(), "y": y.sin()}[used]

    how(function)(x, buffer, scale, shift).sum().backward()
    slope = (2 * x.detach() + 1).cos()
    expected = 2 * slope * (used != "x") + 2 * x.detach() * (used != "y")
    torch.testing.assert_close(x.grad, expected)
    assert bool(scale.grad) == (used != "x")
    assert torch.equal(buffer, 0.5 * x.detach().mean(0))


def test_returned_input_shares_memory(toy: ModuleType) -> None:
    x, _, scale, _ = _inputs()
    returned, *_ = toy.line.returning_input(x, toy.Running(None, None), toy.Affine(scale, None))
    assert returned.data_ptr() == x.data_ptr()
    with pytest.raises(RuntimeError, match="modified inplace"):
        returned.mul_(2)


def test_export(toy: ModuleType) -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("buffer", torch.zeros(2))
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            return toy.line(x, toy.Running(self.buffer, 0.5), toy.Affine(self.scale, None))[0]

    module, x = Module(), _inputs()[0].detach()
    program = torch.export.export(module, (x,))
    names = [str(node.target) for node in program.graph.nodes]
    assert "cifarfast.toy_line_functional.default" in names
    exported = program.module()
    assert torch.equal(exported(x), 2 * x)
    assert torch.equal(exported.buffer, 0.5 * x.mean(0))


def test_needs_says_which_gradients_are_wanted(toy: ModuleType) -> None:
    x, _, scale, shift = _inputs()
    toy.needed.clear()
    toy.line(x.detach(), toy.Running(None, None), toy.Affine(scale, shift.detach()))[0].sum().backward()
    assert toy.needed == [{"x": False, "scale": True, "shift": False}]
    assert x.grad is None
    assert shift.grad is None
    assert scale.grad == x.detach().sum()


def test_an_output_that_is_not_used_has_no_gradient(toy: ModuleType) -> None:
    a, b = (torch.tensor([value], requires_grad=True) for value in (1.0, 2.0))
    toy.sum_and_difference(a, b)[1].backward()
    assert (a.grad, b.grad) == (1, -1)
    toy.sum_and_difference(a, b)[0].backward()
    assert (a.grad, b.grad) == (2, 0)


@HOW
def test_no_gradient_is_an_error(how: Callable[..., Any], toy: ModuleType) -> None:
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="toy_without_gradient has no gradient"):
        how(lambda x: toy.without_gradient(x))(x).sum().backward()


def test_second_derivative_is_an_error(toy: ModuleType) -> None:
    x, _, scale, _ = _inputs()
    y, _ = toy.line(x, toy.Running(None, None), toy.Affine(scale, None))
    (gradient,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="toy_line_backward has no gradient, so that there is no second derivative"):
        gradient.sum().backward()


@HOW
def test_op_that_only_writes(how: Callable[..., Any], toy: ModuleType) -> None:
    count = torch.tensor(3)

    def function(count: Tensor) -> None:
        toy.count_up(count, 2)

    assert how(function)(count) is None
    assert count.item() == 5


@pytest.mark.parametrize("name", ["toy_line", "toy_line_functional"])
@BUFFER
def test_opcheck(name: str, with_buffer: bool, toy: ModuleType) -> None:
    x, buffer, scale, shift = _inputs(with_buffer)
    if name == "toy_line":  # autograd goes around an op that writes
        x, scale, shift = (tensor.detach() for tensor in (x, scale, shift))
    torch.library.opcheck(getattr(torch.ops.cifarfast, name).default, (x, buffer, 0.5, scale, shift))


def test_schema_has_the_fields(toy: ModuleType) -> None:
    schema = str(torch.ops.cifarfast.toy_line.default._schema)
    arguments = "Tensor x, Tensor(a1!)? mean, float? momentum, Tensor scale, Tensor? shift"
    assert schema == f"cifarfast::toy_line({arguments}) -> (Tensor, Tensor)"


def test_two_fields_of_one_name(toy: ModuleType) -> None:
    def declared(mean: Tensor, running: toy.Running) -> Tensor: ...

    declared.__annotations__ = {"mean": Tensor, "running": toy.Running, "return": Tensor}
    declared.__module__ = "toy_op.op"
    with pytest.raises(AssertionError, match="two arguments have a field mean"):
        operator("toy_twice")(declared)
