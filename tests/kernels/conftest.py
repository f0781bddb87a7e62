"""Generates the op tests from the OpSpecs: every op × case × dtype × implementation.

An implementation is a backend on a device: ``torch-cpu``, ``torch-cuda``, ``triton-cuda``, … (``gpu`` marks those that
need one). ``triton-cpu`` is Triton's interpreter. It exists only in a process that has ``TRITON_INTERPRET=1`` before
triton is imported; test_triton_interpreter.py starts one, so that no other test runs interpreted.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cifarfast.kernels import backend
from cifarfast.kernels.testing.spec import OpSpec, all_specs

SPECS = all_specs()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def _implementations(spec: OpSpec) -> list[Any]:
    cpu = [("torch", "cpu")] + ([("triton", "cpu")] if INTERPRETED and "triton" in spec.backends else [])
    gpu = [(name, "cuda") for name in spec.backends]
    skip = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    return [pytest.param(spec, *pair, id=f"{spec.name}-{'-'.join(pair)}") for pair in cpu] + [
        pytest.param(spec, *pair, id=f"{spec.name}-{'-'.join(pair)}", marks=[pytest.mark.gpu, skip]) for pair in gpu
    ]


def _beside_torch_on_cpu(spec: OpSpec) -> list[Any]:
    return [param for param in _implementations(spec) if param.values[1:] != ("torch", "cpu")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = metafunc.fixturenames
    # test_<op>.py, test_<op>_for_norm.py and test_<op>_masked.py are about their op only
    name = metafunc.module.__name__.removesuffix("_for_norm").removesuffix("_masked")
    specs = [spec for spec in SPECS if name == f"test_{spec.name}"] or SPECS
    tested = _beside_torch_on_cpu if "not_torch_on_cpu" in names else _implementations
    if "backend_name" in names and "case" in names:
        metafunc.parametrize(
            ("spec", "backend_name", "device", "case"),
            [
                pytest.param(*implementation.values, case, id=f"{implementation.id}-{case}", marks=implementation.marks)
                for spec in specs
                for implementation in tested(spec)
                for case in spec.cases
            ],
        )
    elif "backend_name" in names:
        metafunc.parametrize(("spec", "backend_name", "device"), [i for spec in specs for i in _implementations(spec)])
    elif "case" in names:
        metafunc.parametrize(
            ("spec", "case"), [pytest.param(s, case, id=f"{s.name}-{case}") for s in specs for case in s.cases]
        )
    elif "spec" in names:
        metafunc.parametrize("spec", [pytest.param(spec, id=spec.name) for spec in specs])
    if "dtype" in names:
        dtypes = (torch.float32, torch.bfloat16, torch.float16)
        metafunc.parametrize("dtype", dtypes, ids=[str(dtype).removeprefix("torch.") for dtype in dtypes])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what repeats on the CPU: a second half precision, and more cases in the interpreter."""
    for item in items:
        if not isinstance(item, pytest.Function) or item.path.name != "test_op_specs.py":
            continue
        values = item.callspec.params if hasattr(item, "callspec") else {}
        if values.get("device") != "cpu":
            continue
        half = (torch.float16, torch.bfloat16) if "fullgraph" in item.name else (torch.float16,)
        later = "case" in values and values["case"] != next(iter(values["spec"].cases))
        if values.get("dtype") in half or (values["backend_name"] == "triton" and later):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def not_torch_on_cpu() -> None:
    """Of every implementation but plain torch on the CPU, which would test torch."""


@pytest.fixture
def implementation(backend_name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force the backend under test; returns the device to put inputs on."""
    monkeypatch.setenv(backend.BACKEND_VARIABLE, backend_name)
    return device


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh floating-point memory is full of NaN, so that an element that a kernel does not write shows."""

    def poison(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def allocate_poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
            tensor = allocate(*args, **kwargs)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        return allocate_poisoned

    monkeypatch.setattr(torch, "empty", poison(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poison(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poison(torch.Tensor.new_empty))


@pytest.fixture(autouse=INTERPRETED)
def sums_in_a_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the interpreter add as a GPU does: it adds rows one after the other, which for 100 of them is less exact."""
    from triton.runtime.interpreter import ReduceOps

    def add(self: Any, input: Any) -> Any:
        values = np.atleast_1d(input.handle.data)
        axis = 0 if self.axis is None else self.axis
        values = np.moveaxis(values.reshape(-1) if self.axis is None else values, axis, 0)
        while len(values) > 1:
            half = len(values) // 2
            values = values[:half] + values[half:]
        total = np.expand_dims(values[0], axis) if self.keep_dims and self.axis is not None else values[0]
        return self.to_tensor(total, input.dtype)

    monkeypatch.setattr(ReduceOps, "sum", add)
