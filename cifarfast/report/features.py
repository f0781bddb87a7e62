"""A map of the penultimate features by t-SNE, and the layers of a model with shapes, parameters and MACs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..augment import Augment
from ..data import Dataset
from ..runtime.precision import autocast
from .figures import INK, PAPER, class_color, new_figure, short, style, to_svg

SAMPLES = 600
ITERATIONS = 400  # of t-SNE; neighbourhoods are kept as well as by 500
_MAC_BUDGET = 3e11  # on a CPU, some ten seconds
_FEWEST = 50
_MAP_INCHES = (4.8, 4.2)


def sample_count(macs: float, device: str, available: int) -> int:
    """How many images' features to compute for a model of so many multiply-accumulates an image."""
    affordable = SAMPLES if device == "cuda" else max(_FEWEST, int(_MAC_BUDGET / max(macs, 1)))
    return min(SAMPLES, affordable, available)


@torch.inference_mode()
def penultimate_features(
    model: nn.Module, data: Dataset, prepare: Augment, *, indices: Tensor, precision: str
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of the model's last linear layer, float32 [M, F], and its predictions, int64 [M], for some images."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError("the model has no linear layer")
    seen: list[Tensor] = []
    hook = layers[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().flatten(1)))
    predicted = []
    try:
        for part in indices.split(100):
            with autocast(part.device, precision):
                predicted.append(model(prepare(data.images, data.labels, part, 0).images).argmax(1))
    finally:
        hook.remove()
    return torch.cat(seen).cpu().numpy(), torch.cat(predicted).cpu().numpy()


def feature_map(features: np.ndarray, labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> str:
    """t-SNE of features [M, F] as an SVG: a point for each image, coloured by label, rings where the model is wrong.

    Raises:
        ValueError: the features are not finite, or all equal.
    """
    places = _places(features)
    with style():
        figure, axes = new_figure(*_MAP_INCHES)
        for label in np.unique(labels):
            right = (labels == label) & (predicted == label)
            wrong = (labels == label) & (predicted != label)
            color = class_color(int(label))
            axes.plot(*places[right].T, "o", color=color, markersize=3.2, markeredgewidth=0)
            axes.plot(*places[wrong].T, "o", markersize=3.2, markerfacecolor="none", markeredgecolor=color, mew=1)
        _name_clusters(axes, places, labels, classes)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        return to_svg(figure, "t-SNE of the penultimate features")


def _places(features: np.ndarray) -> np.ndarray:
    """The points [M, 2] of t-SNE for features [M, F]. Its native code ends the process when it is given a NaN."""
    if not np.isfinite(features).all():
        raise ValueError("the features are not finite")
    varied = features[:, np.ptp(features, axis=0) > 0]
    if not varied.size:
        raise ValueError("the features of all images are equal")
    varied = np.ldexp(varied, -int(np.frexp(abs(varied).max())[1]))  # exact; no square overflows or underflows
    scaled = varied / varied.std(axis=0).mean()
    if scaled.shape[1] == 1:
        scaled = np.pad(scaled, ((0, 0), (0, 1)))
    # as init="pca" does, but looked at
    start = PCA(2, random_state=0).fit_transform(scaled).astype(np.float32, copy=False)
    with np.errstate(invalid="ignore", divide="ignore"):
        start = start / np.std(start[:, 0]) * 1e-4
    if not np.isfinite(start).all():
        raise ValueError("the features of all images are almost equal")
    perplexity = min(30, (len(features) - 1) / 3)
    return TSNE(2, init=start, random_state=0, perplexity=perplexity, max_iter=ITERATIONS).fit_transform(scaled)


def _name_clusters(axes: Any, places: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
    """Each class's name at the median of its points."""
    names, present = short(classes), np.unique(labels)
    centres = np.array([np.median(places[labels == label], axis=0) for label in present])
    extent = np.ptp(places, axis=0)
    inch = np.where(extent > 0, extent, 1) / _MAP_INCHES
    sizes = np.array([(0.085 * len(names[label]), 0.17) for label in present])
    box = {"facecolor": PAPER, "alpha": 0.72, "linewidth": 0, "boxstyle": "round,pad=0.18"}
    for label, (x, y) in zip(present, spread_apart(centres / inch, sizes) * inch, strict=True):
        axes.text(x, y, names[label], ha="center", va="center", fontsize=8, color=INK, weight="bold", bbox=box)


def spread_apart(centres: np.ndarray, sizes: np.ndarray, rounds: int = 100) -> np.ndarray:
    """Centres [N, 2] of boxes of these sizes [N, 2], moved up and down until the boxes overlap little or not at all."""
    centres = centres.copy()
    order = np.arange(len(centres))
    for _ in range(rounds):
        apart = centres[:, None] - centres[None]
        overlap = (sizes[:, None] + sizes[None]) / 2 - abs(apart)
        pushed = np.where((overlap > 0).all(axis=2) & (order[:, None] != order), overlap[..., 1], 0)
        if not pushed.any():
            break
        above = np.where(apart[..., 1] != 0, np.sign(apart[..., 1]), np.sign(order[:, None] - order))
        centres[:, 1] += (0.5 * pushed * above).sum(axis=1)
    return centres


@dataclass(frozen=True)
class Layer:
    """A module without children: its name, kind, output shape for one image, parameters, multiply-accumulates."""

    name: str
    kind: str
    shape: str
    parameters: int
    macs: int


def model_layers(model: nn.Module, in_channels: int, image_size: int) -> list[Layer]:
    """The layers of a model in the order in which they run, from a forward pass on the meta device.

    A parameter that a module holds itself although it has children is not in the list.
    """
    layers: list[Layer] = []
    started: dict[nn.Module, int] = {}
    counter = FlopCounterMode(display=False)

    def before(module: nn.Module, _: Any) -> None:
        started[module] = counter.get_total_flops()

    def after(name: str) -> Any:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            shape = "×".join(map(str, output.shape[1:])) if isinstance(output, Tensor) else ""
            parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)
            macs = (counter.get_total_flops() - started[module]) // 2
            layers.append(Layer(name, type(module).__name__, shape, parameters, macs))

        return hook

    model = model.to("meta").eval()
    for name, module in model.named_modules():
        if not any(module.children()):
            module.register_forward_pre_hook(before)
            module.register_forward_hook(after(name))
    with torch.no_grad(), counter:
        model(torch.empty(1, in_channels, image_size, image_size, device="meta"))
    return layers
