"""Training steps on a few synthetic images."""

from torch import nn

from cifarfast.data import load_dataset
from cifarfast.recipes.build import build_augment, build_model
from cifarfast.recipes.recipe import Recipe
from cifarfast.runtime.distributed import World
from cifarfast.training.step import TrainStep

BATCH = 16


def make_step(model: nn.Module | None = None, **settings: object) -> TrainStep:
    """A step on batches of 80 synthetic images, without augmentation and dropout; the model is a small WRN."""
    data = "synthetic:classes=3,train=80,test=6,size=8"
    plain = {"arch": "wrn10_1", "dropout": 0.0, "dataset": data, "batch_size": BATCH, "crop_padding": 0, "flip": "none"}
    recipe = Recipe(**plain | settings).resolved("cpu")  # type: ignore[arg-type]
    train = load_dataset(recipe.dataset).train
    augment = build_augment(recipe, (0.5,) * 3, (0.25,) * 3, training=True)
    model = model or build_model(recipe, train)
    return TrainStep(*(recipe, model, train, augment), samples=80, steps_per_epoch=5, world=World())


def run_steps(step: TrainStep, rates: list[float]) -> None:
    step.model.train()
    for epoch in range(len(rates) // 5):
        step.begin(epoch, 0, rates[5 * epoch : 5 * epoch + 5], set())
        for i in range(5):
            step.run(BATCH, step.sharpness is not None and step.sharpness.due(5 * epoch + i))
