"""Every op, and whole training steps, through Triton's real launcher on a GPU that is not there."""

import os
from functools import cache
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from cifarfast.kernels import backend
from cifarfast.kernels.testing.check import run
from cifarfast.kernels.testing.compile_report import SHARED_LIMITS, builds
from cifarfast.kernels.testing.recorder import names, record
from cifarfast.kernels.testing.spec import OpSpec, SampleMaker

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.skipif(INTERPRETED, reason="the interpreter is in the launcher's place")


def test_arguments_of_every_case(spec: OpSpec, dtype: torch.dtype) -> None:
    if dtype not in spec.dtypes:
        pytest.skip(f"{spec.name} does not run in {dtype}")
    with record() as launches:
        for case in spec.cases.values():
            run(spec, spec.function, case(SampleMaker(dtype)))
    known = _known_kernels(spec.name)
    of_its_folder = {kernel for kernel in known if kernel.startswith(backend.package(spec.name))}
    assert {launch.kernel for launch in launches} & (of_its_folder or known)


@cache
def _known_kernels(op: str) -> set[str]:
    return {build.launch.kernel for build in builds([op], ["sm_90"])}


@pytest.mark.slow
def test_every_case_compiles_as_launched(spec: OpSpec) -> None:
    dtype = torch.bfloat16 if torch.bfloat16 in spec.dtypes else spec.dtypes[0]
    with record() as launches:
        for case in spec.cases.values():
            run(spec, spec.function, case(SampleMaker(dtype)))
    distinct = {launch.code: launch for launch in launches}
    assert distinct
    for launch in distinct.values():
        assert launch.compile().metadata.shared <= SHARED_LIMITS["sm_90"], launch.name


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
    from small_models import narrow
    from small_steps import BATCH, make_step

    from cifarfast.inference.logits import predict_logits
    from cifarfast.recipes.build import build_augment

    with narrow():
        step = make_step(backend="fused", **{"precision": "bf16", **settings})
    with record() as launches:
        step.model.train()
        step.begin(0, 0, [0.02] * 5, set())
        for perturbed in {False, step.sharpness is not None}:
            step.run(BATCH, perturbed)
        model = step.ema.module if step.ema else step.model
        prepare = build_augment(step.recipe, (0.5,) * 3, (0.25,) * 3, training=False)
        predict_logits(model.eval(), step.data, prepare, batch_size=BATCH, precision=step.recipe.precision)
    launched = names(launches)
    assert {"batch_norm_act_fwd_kernel", "cross_entropy_fwd_kernel"} <= launched
    assert any(name.startswith(("flat_optimizer", "flat_sgd")) for name in launched)


def test_statistics_handed_on() -> None:
    from bench.memcheck import hand_statistics_on

    with record() as launches:
        hand_statistics_on("cpu")
    known = {"conv_fwd_kernel", "running_statistics_kernel", "shakedrop_bn_shortcut_fwd_stats_kernel"}
    assert known <= names(launches)
