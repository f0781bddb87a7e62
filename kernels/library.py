"""One declaration makes an op of ``torch.library``: schema, fake kernel, dispatch, autograd.

::

    @operator("global_avg_pool_act")
    def forward(x: Tensor, norm: Norm) -> Tensor:
        return x.new_empty(x.shape[:2])

    @operator("global_avg_pool_act_backward")
    def backward(grad: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
        return torch.empty_like(x, memory_format=torch.channels_last), *norm.empty_gradients()

    @forward.backward
    def _gradients(grad: Tensor, x: Tensor, norm: Norm) -> Gradients:
        return dict(zip(("x", "weight", "bias"), backward(grad, x, norm), strict=True))

    y = forward(x, norm)

The declared function is the op's fake kernel: from its arguments it makes tensors like the outputs. Arguments that are
dataclasses stand in the schema as their fields. The implementation is the function with the op's name in the module
``torch_impl`` or ``triton_impl`` beside the declaration; it takes what the declared function takes. Where there is no
``torch_impl``, ``reference`` has it.

Eager calls run an ``autograd.Function`` around the op, which costs half of what torch.library's own autograd does.
Under torch.compile that one is used. An op that writes to buffers (``mutates``) must not have a gradient in
torch.library, and torch.compile cannot write to a buffer from within an ``autograd.Function``: where an input needs a
gradient a second op runs there, ``<name>_functional``, which returns the buffers' new values, and they are copied in
after it.
"""

import dataclasses
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import torch
from torch import Tensor

from . import backend

_LIBRARY = torch.library.Library("cifarfast", "FRAGMENT")
_PLAIN = (bool, int, float, str, type(None))

Gradients = dict[str, Tensor | None]
"""Gradients by the names of the op's inputs; of an input that is a field of a dataclass, the field's name."""


def operator(
    name: str,
    *,
    op: str | None = None,
    mutates: Sequence[str] = (),
    differentiable: int | None = None,
    implementations: str | None = None,
    runs: Callable[..., str] | None = None,
    direct: bool = False,
) -> Callable[[Callable[..., Any]], "Operator"]:
    """Declare the op ``cifarfast::<name>``; see the module.

    Args:
        name: of the op in torch.library and of its implementations.
        op: the public op that it is a part of, by which a backend is chosen; by default it has the package's name.
        mutates: names of the fields that the op writes to.
        differentiable: how many of the outputs, from the first, have a gradient; None for all.
        implementations: the package with ``torch_impl`` and ``triton_impl``, by default that of the declaration.
        runs: ``runs(op, *arguments)`` names the backend that runs the op; by default ``runs_on``, by the first one.
        direct: call the implementation without torch's dispatcher where the first tensor is on a CPU and nothing needs
            a gradient: for an op whose work there is less than the dispatcher's.
    """

    def declare(function: Callable[..., Any]) -> Operator:
        declaring = _package_of(function.__module__)
        package, public_name = implementations or declaring, op or declaring.rpartition(".")[2]
        _register(public_name, declaring, package)
        chosen = partial(runs or runs_on, public_name)
        return Operator(name, function, tuple(mutates), differentiable, package, chosen, direct)

    return declare


def runs_on(op: str, x: Tensor, *others: Any) -> str:
    """The backend that runs an op on x: torch where no kernel can (fp64) or need (no elements), else the one chosen."""
    if x.dtype == torch.float64 or x.numel() == 0:
        return "torch"
    return backend.choose(op, x.device).backend


def runs_plain_torch(op: str, x: Tensor) -> bool:
    """Whether the plain reference runs, with torch's autograd, and not the op.

    It does on a CPU where no backend is forced: there the op's dispatch would only cost time. Under torch.compile it
    does for fp64.
    """
    if torch.compiler.is_compiling():
        return x.dtype == torch.float64
    # a subclass may be a fake tensor
    if not x.is_cpu or type(x) is not Tensor:
        return False
    choice = backend.choose(op, x.device)
    return choice.backend == "torch" and not choice.forced


class Operator:
    """An op that was declared. Called with the declared arguments it runs; ``flatten`` makes of these the arguments of
    the op of torch.library."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        mutates: tuple[str, ...],
        differentiable: int | None,
        package: str,
        runs: Callable[..., str],
        direct: bool,
    ) -> None:
        self.name = name
        self._fake, self._package, self._runs, self._direct = function, package, runs, direct
        hints = get_type_hints(function)
        returned = hints.pop("return")
        returned = None if returned is type(None) else returned
        self._n_outputs = 0 if returned is None else len(getattr(returned, "__args__", ())) or 1
        self._n_differentiable = self._n_outputs if differentiable is None else differentiable
        self.fields: dict[str, Any] = {}
        self.flatten, self._pack = _converters(hints, self.fields)
        self._tensors = tuple(i for i, hint in enumerate(self.fields.values()) if hint in (Tensor, Tensor | None))
        self._mutated = tuple(list(self.fields).index(field) for field in mutates)
        self._op = _define(name, self._run, self._fake_flat, self.fields, returned, mutates)
        self._functional = self._op
        if mutates:
            result: Any = tuple.__class_getitem__((Tensor,) * (self._n_outputs + len(mutates)))
            run, fake = self._run_functional, self._fake_functional
            self._functional = _define(f"{name}_functional", run, fake, self.fields, result, ())
        self._rule = _NoGradient(self)
        torch.library.register_autograd(
            self._functional,
            lambda ctx, *grads: self._rule.backward(ctx, *grads),
            setup_context=lambda ctx, inputs, output: self._rule.setup_context(ctx, inputs, output),
            lib=_LIBRARY,
        )
        self._apply = _function(self, returns_input=False)
        self._apply_returning_input = _function(self, returns_input=True)

    def __call__(self, *arguments: Any) -> Any:
        flat = self.flatten(*arguments)
        needs_gradient = torch.is_grad_enabled() and self._requires_grad(flat)
        if torch.compiler.is_compiling():
            # inductor cannot lower an op that mutates where nothing that it mutates is there
            if self._mutated and (needs_gradient or all(flat[i] is None for i in self._mutated)):
                return self._write_back(flat, self._functional(*flat))
            return self._op(*flat)
        if needs_gradient:
            return self._apply(*flat)
        # subclasses, such as fake tensors, have dispatch of their own
        if self._direct and type(x := flat[self._tensors[0]]) is Tensor and x.is_cpu:
            return self._implementation(arguments)(*arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return self._op(*flat)

    def returning_input(self, *arguments: Any) -> Any:
        """The first argument once more, and what the op returns: the fork at the start of a block.

        Whoever reads the first result instead of the argument hands its gradient to the op's backward, as ``other``.
        An op of torch.library must not return its input; an ``autograd.Function`` may.
        """
        flat = self.flatten(*arguments)
        x, *outputs = self._apply_returning_input(*flat)
        if self._mutated and torch.compiler.is_compiling():
            outputs = _as_tuple(self._write_back(flat, outputs))
        return (x, *outputs)

    def backward(
        self, gradients: Callable[..., Gradients] | None = None, *, saves: Callable[..., Any] | None = None
    ) -> Any:
        """Register the function that has the gradients.

        It takes the gradients of the differentiable outputs, and the op's inputs or what ``saves(outputs, *inputs)``
        returns: a tuple of tensors, dataclasses and plain values. A gradient is None where an output was not used; at
        least one is not. It may take ``needs`` (whether an input of that name needs its gradient) and ``other`` (the
        gradient of the input that ``returning_input`` returns, or None).
        """
        if gradients is None:
            return lambda function: self.backward(function, saves=saves)
        self._rule = _Rule(self, gradients, saves)
        return gradients

    def _requires_grad(self, flat: Sequence[Any]) -> bool:
        return any(flat[i] is not None and flat[i].requires_grad for i in self._tensors)

    def _run(self, *flat: Any) -> Any:
        arguments = self._pack(*flat)
        outputs = self._implementation(arguments)(*arguments)
        for i in self._mutated:  # kernels write without autograd's knowledge
            if flat[i] is not None and not flat[i].is_inference():
                torch.autograd.graph.increment_version(flat[i])
        return outputs

    def _implementation(self, arguments: Sequence[Any]) -> Callable[..., Any]:
        return getattr(_module(self._package, self._runs(*arguments)), self.name)

    def _fake_flat(self, *flat: Any) -> Any:
        return self._fake(*self._pack(*flat))

    def _run_functional(self, *flat: Any) -> Any:
        values = list(flat)
        for i in self._mutated:
            values[i] = None if flat[i] is None else flat[i].clone()
        return self._with_buffers(self._run(*values), values)

    def _fake_functional(self, *flat: Any) -> Any:
        values = list(flat)
        for i in self._mutated:
            values[i] = None if flat[i] is None else torch.empty_like(flat[i])
        return self._with_buffers(self._fake_flat(*flat), values)

    def _with_buffers(self, outputs: Any, flat: Sequence[Any]) -> tuple[Tensor, ...]:
        like = next(flat[i] for i in self._tensors if flat[i] is not None)
        buffers = (like.new_empty(0) if flat[i] is None else flat[i] for i in self._mutated)
        return (*_as_tuple(outputs), *buffers)

    def _write_back(self, flat: Sequence[Any], outputs: Sequence[Tensor]) -> Any:
        """Give the buffers their new values; return the op's own outputs."""
        for i, value in zip(self._mutated, outputs[self._n_outputs :], strict=True):
            if flat[i] is not None:
                flat[i].copy_(value)
        own = tuple(outputs[: self._n_outputs])
        return own[0] if self._n_outputs == 1 else own or None


class _NoGradient:
    """What autograd asks of an op without a gradient: an error, where it would otherwise take it for zero."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def setup_context(self, ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        """Keep nothing."""

    def backward(self, ctx: Any, *grads: Tensor | None, other: Tensor | None = None) -> Any:
        raise RuntimeError(
            f"{self._operator.name} has no gradient, so that there is no second derivative; plain torch has one: "
            f"tensors on a CPU, without {backend.BACKEND_VARIABLE}"
        )


class _Rule(_NoGradient):
    """An op's gradient, as ``register_autograd`` and ``autograd.Function`` take it."""

    def __init__(
        self, operator: Operator, gradients: Callable[..., Gradients], saves: Callable[..., Any] | None
    ) -> None:
        super().__init__(operator)
        self._gradients, self._saves = gradients, saves
        self._names = list(operator.fields)
        parameters = inspect.signature(gradients).parameters
        self._takes_needs, self._takes_other = "needs" in parameters, "other" in parameters

    def setup_context(self, ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        """Keep what the gradients are made of."""
        operator, outputs = self._operator, _as_tuple(output)
        if constants := outputs[operator._n_differentiable :]:
            ctx.mark_non_differentiable(*constants)
        ctx.set_materialize_grads(False)
        arguments = operator._pack(*inputs)
        saved = arguments if self._saves is None else self._saves(outputs[: operator._n_outputs], *arguments)
        tensors: list[Tensor] = []
        ctx.kept = [_split(item, tensors) for item in saved]
        ctx.save_for_backward(*tensors)

    def backward(self, ctx: Any, *grads: Tensor | None, other: Tensor | None = None) -> Any:
        """The gradients of all inputs, in order."""
        grads, needs = grads[: self._operator._n_differentiable], ctx.needs_input_grad
        if all(grad is None for grad in grads):
            found: Gradients = {self._names[0]: other}
        else:
            tensors = iter(ctx.saved_tensors)
            saved = [_join(item, tensors) for item in ctx.kept]
            options: dict[str, Any] = {}
            if self._takes_needs:
                options["needs"] = dict(zip(self._names, needs, strict=True)).__getitem__
            if self._takes_other:
                options["other"] = other
            found = self._gradients(*grads, *saved, **options)
        return tuple(found.get(name) if needs[i] else None for i, name in enumerate(self._names))


def _function(operator: Operator, *, returns_input: bool) -> Any:
    """``apply`` of an ``autograd.Function`` around the op, which also returns its first input if asked to."""
    run, functional = operator._op, operator._functional

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *flat: Any) -> Any:
            if torch.compiler.is_compiling():
                outputs = functional(*flat)
            else:
                with torch._C._AutoDispatchBelowAutograd():
                    outputs = run(*flat)
            if not returns_input:
                operator._rule.setup_context(ctx, flat, outputs)
                return outputs
            # kept is the input that is returned: a second derivative through it is an error, and not taken for zero
            x = flat[0].view_as(flat[0])
            operator._rule.setup_context(ctx, (x, *flat[1:]), outputs)
            return (x, *_as_tuple(outputs))

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            if returns_input:
                return operator._rule.backward(ctx, *grads[1:], other=grads[0])
            return operator._rule.backward(ctx, *grads)

    Function.__name__ = Function.__qualname__ = operator.name
    return Function.apply


def _register(name: str, declaring: str, package: str) -> None:
    """Make a public op known to ``backend``, if it is not, with the backends that its implementations' package has."""
    if name not in backend.registered():
        folder = Path(sys.modules[package].__file__ or "").parent
        found = [candidate for candidate in backend.BACKENDS if (folder / f"{candidate}_impl.py").is_file()]
        backend.register(name, *{*found, "torch"}, package=declaring)


def _package_of(module: str) -> str:
    """The package that a module is in, or is."""
    return module if hasattr(sys.modules[module], "__path__") else module.rpartition(".")[0]


def _define(name: str, run: Any, fake: Any, fields: dict[str, Any], returned: Any, mutates: Sequence[str]) -> Any:
    """Define ``cifarfast::<name>`` in torch.library; return its overload."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(field, kind, annotation=hint) for field, hint in fields.items()]

    def prototype(*flat: Any) -> Any: ...

    prototype.__signature__ = inspect.Signature(parameters, return_annotation=returned)  # type: ignore[attr-defined]
    schema = torch.library.infer_schema(prototype, mutates_args=tuple(mutates))
    _LIBRARY.define(name + schema, tags=[torch.Tag.pt2_compliant_tag])
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"cifarfast::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.cifarfast, name).default


def _converters(hints: dict[str, Any], fields: dict[str, Any]) -> tuple[Callable[..., tuple[Any, ...]], Any]:
    """Functions from the declared arguments to their flat form, and back; ``fields`` gets the flat names and types."""
    flat, packed, classes = [], [], {}
    for argument, hint in hints.items():
        if not dataclasses.is_dataclass(hint):
            fields[argument] = hint
            flat.append(argument)
            packed.append(argument)
            continue
        types = get_type_hints(hint)
        names = [field.name for field in dataclasses.fields(hint)]
        for name in names:
            assert name not in fields, f"two arguments have a field {name}"
            fields[name] = types[name]
            flat.append(f"{argument}.{name}")
        classes[f"_{argument}"] = hint
        packed.append(f"_{argument}({', '.join(names)})")
    flatten = f"lambda {', '.join(hints)}: ({', '.join(flat)},)"
    pack = f"lambda {', '.join(fields)}: ({', '.join(packed)},)"
    return eval(flatten), eval(pack, classes)


@cache
def _module(package: str, backend_name: str) -> ModuleType:
    # not imported before it runs: triton_impl needs triton
    name = f"{package}.{backend_name}_impl"
    if backend_name == "torch" and importlib.util.find_spec(name) is None:
        name = f"{package}.reference"
    return importlib.import_module(name)


def _as_tuple(outputs: Any) -> tuple[Any, ...]:
    if outputs is None:
        return ()
    return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


def _split(item: Any, tensors: list[Tensor]) -> tuple[Any, ...]:
    """What is left of a value to keep once its tensors are in ``tensors``: (class or None, value or values)."""
    if isinstance(item, Tensor):
        tensors.append(item)
        return (Tensor, None)
    # dynamo cannot ask None or a bool whether it is a dataclass
    if isinstance(item, _PLAIN) or not dataclasses.is_dataclass(item):
        return (None, item)
    values = []
    for name in item.__dataclass_fields__:
        value = getattr(item, name)
        if isinstance(value, Tensor):
            tensors.append(value)
            value = Tensor
        values.append(value)
    return (type(item), values)


def _join(kept: tuple[Any, ...], tensors: Any) -> Any:
    cls, value = kept
    if cls is None:
        return value
    if cls is Tensor:
        return next(tensors)
    return cls(*[next(tensors) if field is Tensor else field for field in value])
