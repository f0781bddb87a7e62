"""The training step against a plain loop, what it allocates, and its CUDA graph."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_steps import BATCH, make_step, run_steps
from torch import Tensor, nn

from cifarfast.data import load_dataset
from cifarfast.random import Purpose, permutation
from cifarfast.recipes.recipe import Recipe
from cifarfast.runs.run_folder import RunFolder
from cifarfast.training.engine import Trainer

STEPS = 50
ZERO_RADIUS = {"sam": "asam", "sam_rho": 0.0}


def smooth_network() -> nn.Module:
    """Convolutions and batch norms without kinks, so that rounding does not grow from step to step."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3, 2, bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm2d(8), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 4, 3))


def plain_asam(model: nn.Module, loss: Callable[[], Tensor], rho: float, adaptive: bool, eta: float) -> None:
    """Leave the second gradient in ``grad``, the weights as they were, batch norm as after the first pass."""
    parameters = list(model.parameters())
    loss().backward()
    kept, statistics = [p.detach().clone() for p in parameters], copy.deepcopy(dict(model.named_buffers()))
    with torch.no_grad():
        scales = [p.abs() + eta if adaptive else torch.ones_like(p) for p in parameters]
        norm = torch.stack([(s * p.grad).square().sum() for s, p in zip(scales, parameters, strict=True)]).sum().sqrt()
        for p, s in zip(parameters, scales, strict=True):
            p.add_(s.square() * p.grad * rho / (norm + 1e-12))
    model.zero_grad()
    loss().backward()
    with torch.no_grad():
        for p, before in zip(parameters, kept, strict=True):
            p.copy_(before)
        for name, buffer in model.named_buffers():
            buffer.copy_(statistics[name])


@pytest.mark.parametrize(
    "settings",
    [
        {"sam": "asam", "sam_rho": 2.0, "ema_decay": 0.9, "label_smoothing": 0.1},
        {"sam": "asam", "sam_rho": 0.5, "sam_eta": 0.01, "sam_every": 3},
        {"sam": "sam", "sam_rho": 0.05, "ema_decay": 0.999, "ema_warmup": True},
        {"clip_norm": 0.5, "ema_decay": 0.9},
    ],
)
def test_fifty_steps_are_those_of_a_plain_loop(settings: dict[str, object]) -> None:
    step = make_step(smooth_network(), lr=0.02, weight_decay=5e-4, **settings)
    recipe, model = step.recipe, copy.deepcopy(step.model)
    rates = [0.02 * (1 - i / STEPS) for i in range(STEPS)]
    run_steps(step, rates)

    model = model.double().train()  # fp64, so that all of the error is ours
    ema = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=5e-4)
    images = ((step.data.images.double() / 255 - 0.5) / 0.25).permute(0, 3, 1, 2)
    for i, rate in enumerate(rates):
        order = permutation(80, recipe.seed, Purpose.SHUFFLE, i // 5)[i % 5 * BATCH :][:BATCH]

        def loss(order: Tensor = order) -> Tensor:
            return F.cross_entropy(
                model(images[order]), step.data.labels[order], label_smoothing=recipe.label_smoothing
            )

        optimizer.zero_grad()
        if recipe.sam != "none" and i % recipe.sam_every == 0:
            assert recipe.sam_rho is not None
            plain_asam(model, loss, recipe.sam_rho, recipe.sam == "asam", recipe.sam_eta)
        else:
            loss().backward()
        if recipe.clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        decay = min(recipe.ema_decay, (1 + i) / (10 + i)) if recipe.ema_warmup else recipe.ema_decay
        for ours, theirs in zip(ema.state_dict().values(), model.state_dict().values(), strict=True):
            ours.copy_(ours * decay + theirs * (1 - decay) if ours.is_floating_point() else theirs)
    pairs = [(step.model, model)] + ([(step.ema.module, ema)] if step.ema else [])
    for ours, theirs in pairs:
        for (name, value), expected in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            error = (value - expected).double().norm() / expected.double().norm().clamp(min=1e-2)
            assert error < 1e-4, f"{name}: {error:.1e}"
        counts = [v.item() for k, v in ours.state_dict().items() if k.endswith("num_batches_tracked")]
        assert counts == [STEPS] * len(counts)


def test_perturbed_steps_are_not_plain_steps() -> None:
    results = []
    for settings in ({}, {"sam": "sam"}, {"sam": "asam"}):
        step = make_step(lr=0.02, **settings)
        run_steps(step, [0.02] * 10)
        results.append(step.flat.master.clone())
    for a in range(3):
        for b in range(a):
            assert (results[a] - results[b]).norm() > 1e-3 * results[a].norm()


def test_the_copies_follow_the_master() -> None:
    """A perturbation of radius 0 computes with copies of the weights, and nothing else is different."""
    plain, copied, half = (make_step(lr=0.02, **s) for s in ({}, ZERO_RADIUS, {**ZERO_RADIUS, "precision": "bf16"}))
    for step in (plain, copied, half):
        run_steps(step, [0.02] * 10)
    assert torch.equal(copied.flat.master, plain.flat.master)
    difference = (half.flat.master - plain.flat.master).norm() / plain.flat.master.norm()
    assert 1e-5 < difference < 2e-2


# on a GPU


def gpu_trainer(tmp_path: Path, name: str, **settings: object) -> Trainer:
    base = {"arch": "wrn10_1", "dataset": "synthetic:classes=3,train=200,test=60", "batch_size": 64, "epochs": 4}
    recipe = Recipe(**base | {"cutmix_alpha": 1.0, "ema_decay": 0.9} | settings).resolved("cuda")  # type: ignore[arg-type]
    torch.backends.cudnn.deterministic = True
    run = RunFolder(tmp_path / name)
    run.path.mkdir()
    return Trainer(recipe, load_dataset(recipe.dataset).to("cuda"), run, show_progress=False)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sam": "asam", "sam_every": 2},
        {"optimizer": "muon"},
        {"precision": "fp16"},
        {"precision": "fp32"},
        {"arch": "pyramidnet8_a6_shakedrop", "sam": "asam"},
        {"backend": "torch"},
        {"on_nonfinite": "skip", "clip_norm": 1.0, "lookahead_every": 3},
        {"on_nonfinite": "skip", "arch": "cnn_tutorial"},
        {"on_nonfinite": "skip", "sam": "sam", "precision": "fp16"},
    ],
)
def test_captured_is_uncaptured(settings: dict[str, object], tmp_path: Path) -> None:
    results = []
    for graph in (True, False):
        trainer = gpu_trainer(tmp_path, str(graph), graph=graph, **settings)
        trainer.fit()
        assert trainer.graphs.enabled == graph, "a step could not be captured"
        results.append((trainer.step.flat.master.clone(), trainer.state.rows))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


@pytest.mark.gpu
def test_an_epoch_waits_for_nothing_and_allocates_nothing(tmp_path: Path) -> None:
    trainer = gpu_trainer(tmp_path, "run", sam="asam", sam_every=2, epochs=1)
    trainer.fit()  # after one epoch every graph is recorded
    step, sizes = trainer.step, trainer.step_sizes
    trainer.model.train()
    step.begin(1, 0, [0.01] * len(sizes), set())
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for i, count in enumerate(sizes):
            trainer.train_step(count, i)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


@pytest.mark.gpu
def test_a_model_that_cannot_be_captured_trains_uncaptured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = gpu_trainer(tmp_path, "run")
    forward = trainer.step.model.forward
    trainer.step.model.forward = lambda x: forward(x) * (1 if x.sum().item() > -1e30 else 0)  # type: ignore[method-assign]
    trainer.fit()
    assert "cannot be captured" in capsys.readouterr().err
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert len(trainer.state.rows) == 4
