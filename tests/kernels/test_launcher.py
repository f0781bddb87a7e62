"""Every op, and whole training steps, through Triton's real launcher on a GPU that is not there."""

import os
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from launcher import launches

from cifarfast.kernels.testing.check import run
from cifarfast.kernels.testing.spec import OpSpec, SampleMaker

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.skipif(INTERPRETED, reason="the interpreter is in the launcher's place")


def test_arguments_of_every_case(spec: OpSpec, dtype: torch.dtype) -> None:
    if dtype not in spec.dtypes:
        pytest.skip(f"{spec.name} does not run in {dtype}")
    with launches(compiles=False) as names:
        for case in spec.cases.values():
            run(spec, spec.function, case(SampleMaker(dtype)))
    known = {build.kernel.fn.__name__ for build in spec.kernels()}
    assert names & known


@pytest.mark.slow
def test_every_case_compiles_as_launched(spec: OpSpec) -> None:
    dtype = torch.bfloat16 if torch.bfloat16 in spec.dtypes else spec.dtypes[0]
    with launches(compiles=True) as names:
        for case in spec.cases.values():
            run(spec, spec.function, case(SampleMaker(dtype)))
    assert names


STEPS: list[dict[str, Any]] = [
    {},
    {"dropout": 0.3, "sam": "asam", "ema_decay": 0.9, "label_smoothing": 0.1},
    {"sam": "sam", "precision": "fp16", "on_nonfinite": "skip"},
    {"optimizer": "muon"},
    {"clip_norm": 1.0, "lookahead_every": 2, "on_nonfinite": "skip"},
    {"optimizer": "adamw", "ema_decay": 0.9, "ema_warmup": True},
    *({"optimizer": name} for name in ("rmsprop", "adagrad", "nadam", "adamax")),
    {"arch": "pyramidnet8_a6_shakedrop", "dropout": None, "sam": "asam", "ema_decay": 0.9},
    {"arch": "resnet18", "dropout": None},
    {"arch": "cnn_tutorial_bn", "dropout": None},
]


@pytest.mark.parametrize("settings", STEPS, ids=lambda settings: "-".join(map(str, settings.values())) or "sgd")
def test_a_training_step(settings: dict[str, Any]) -> None:
    from small_steps import BATCH, make_step

    from cifarfast.inference import build_augment, predict_logits

    step = make_step(backend="fused", **{"precision": "bf16", **settings})
    with launches(compiles=False) as names:
        step.model.train()
        step.begin(0, 0, [0.02] * 5, set())
        for perturbed in {False, step.sharpness is not None}:
            step.run(BATCH, perturbed)
        model = step.ema.module if step.ema else step.model
        prepare = build_augment(step.recipe, (0.5,) * 3, (0.25,) * 3, training=False)
        predict_logits(model.eval(), step.data, prepare, batch_size=BATCH, precision=step.recipe.precision)
    assert {"batch_norm_act_fwd_kernel", "cross_entropy_fwd_kernel"} <= names
    assert any(name.startswith(("flat_optimizer", "flat_sgd")) for name in names)


def test_statistics_handed_on() -> None:
    from bench.memcheck import hand_statistics_on

    with launches(compiles=False) as names:
        hand_statistics_on("cpu")
    assert {"conv_running_kernel", "running_statistics_kernel", "shakedrop_bn_shortcut_fwd_stats_kernel"} <= names
