"""Line 10: what the ops say to arguments that are not what they take.

The targets are all public functions of ``cifarfast.kernels`` that take tensors or numbers, with the samples of the
OpSpecs; one or two arguments of a call are replaced by something odd. The call succeeds, or raises a ValueError or
TypeError that names an argument that was replaced.
"""

import inspect
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cifarfast import kernels
from cifarfast.kernels.testing.spec import Inputs, SampleMaker, all_specs

# not functions of tensors: their arguments are modules, or none
OTHERS = {"replace_modules", "share_randomness"}
# the specs' functions of these are not public; the public ones are called instead
OWN_SAMPLES = {"flat_norm", "flat_optimizer"}


def _specs() -> dict[str, tuple[Callable[..., Any], Callable[[random.Random], Inputs]]]:
    """Each public op by name: its function, and what draws arguments that fit."""
    targets: dict[str, Any] = {}
    for spec in all_specs():
        if spec.name not in OWN_SAMPLES:
            cases = list(spec.cases.values())
            targets[spec.name] = spec.function, lambda rng, cases=cases: rng.choice(cases)(SampleMaker(torch.float32))
    for name in kernels.__all__:
        function = getattr(kernels, name)
        former = name.startswith("fork_") or name.endswith(("_stats", "_for_norm"))
        if inspect.isfunction(function) and name not in targets and name not in OTHERS and not former:
            targets[name] = function, lambda rng, function=function: _sample(function)
    return targets


def _sample(function: Callable[..., Any]) -> Inputs:
    """Arguments that fit a function over flat buffers, by their names."""
    settings: Inputs = {"lengths": [5, 3], "lr": 0.1, "layer": 1, "layers": 4, "max_norm": 1.0}
    settings["table"], settings["scalars"] = kernels.flat_table([5, 3]), kernels.flat_scalars(lr=0.1)
    settings["momentum"] = 0.9
    parameters = inspect.signature(function).parameters
    inputs: Inputs = {}
    for name, parameter in parameters.items():
        if name in settings and (parameter.default is inspect.Parameter.empty or name == "momentum"):
            inputs[name] = settings[name]
        elif parameter.default is inspect.Parameter.empty:
            inputs[name] = torch.ones(1027)
    for name in inspect.signature(function).parameters:
        if name not in inputs:
            inputs[name] = parameters[name].default
    return inputs


def _odd() -> list[Any]:
    """Values that a caller passes by mistake."""
    plain = [0, -1, 1.5, True, None, "relu", b"", [], {}, (1,), (1, 1), object(), 2**70, 10**12]
    floats = [float("nan"), float("inf"), float("-inf")]
    dense = [torch.tensor(1.0), torch.zeros(0), torch.zeros(2, 3), torch.zeros(4, 8, 5, 5), torch.ones(8).double()]
    dtypes = [torch.zeros(8, dtype=dtype) for dtype in (torch.bool, torch.int64, torch.complex64)]
    elsewhere = [torch.zeros(2, 8).to_sparse(), torch.empty(2, 8, 5, 5, device="meta"), np.zeros((2, 8, 5, 5))]
    return [*plain, *floats, *dense, *dtypes, *elsewhere, nn.Linear(2, 2), nn.BatchNorm2d(8)]


def _fault(function: Callable[..., Any], inputs: Inputs, replaced: list[str]) -> str | None:
    try:
        function(**inputs)
    except (ValueError, TypeError) as error:
        # a value of a type that fits may be the reason why another argument does not
        expected = replaced if isinstance(error, TypeError) else list(inputs)
        named = any(re.search(rf"\b{name}\b", str(error)) for name in expected)
        return None if named else f"{type(error).__name__} that names none of {expected}: {error}"
    except Exception as error:
        if "device" in replaced and "device string: relu" in str(error):  # torch's own message names it
            return None
        return f"{type(error).__name__}: {error}"
    return None


def _fuzz(seconds: float | None, calls: int | None) -> Counter[str]:
    """Faults, with how often each was found: in so many calls, or in so many seconds."""
    rng, targets, odd = random.Random(0), _specs(), _odd()
    faults: Counter[str] = Counter()
    done, end = 0, time.monotonic() + (seconds or 0)
    while done < calls if calls is not None else time.monotonic() < end:
        name = rng.choice(sorted(targets))
        function, sample = targets[name]
        inputs = sample(rng)
        replaced = rng.sample(sorted(inputs), min(len(inputs), rng.choice([1, 1, 2])))
        inputs.update({argument: rng.choice(odd) for argument in replaced})
        shown = {argument: _shown(inputs[argument]) for argument in replaced}
        if fault := _fault(function, inputs, replaced):
            faults[f"{name}({shown}): {fault}"[:300]] += 1
        done += 1
    return faults


def _shown(value: Any) -> str:
    return f"tensor {list(value.shape)} {value.dtype}" if isinstance(value, Tensor) else repr(value)[:40]


def test_line_10_odd_arguments_are_named() -> None:
    assert _fuzz(None, 1500) == {}


@pytest.mark.slow
def test_line_10_odd_arguments_are_named_for_a_minute() -> None:
    assert _fuzz(60, None) == {}


@pytest.mark.parametrize("backend", ["torch", None])
def test_line_10_the_message_says_what_was_wanted(backend: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend is not None:
        monkeypatch.setenv("CIFARFAST_BACKEND", backend)
    x = torch.ones(2, 8)
    with pytest.raises(TypeError, match=r"^seed must be Tensor or None, got int 0$"):
        kernels.dropout(x, 0.5, seed=0, step=torch.tensor(0), indices=torch.arange(2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^weight must be Tensor or None, got list \[1\.0\]$"):
        kernels.batch_norm_act(torch.ones(2, 8, 3, 3), None, None, [1.0], torch.ones(8), training=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^padding must lie in \[0, 32767\], got 1000000000000$"):
        kernels.conv2d(torch.ones(2, 8, 3, 3), torch.ones(8, 8, 1, 1), padding=10**12)
