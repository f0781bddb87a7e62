"""Logits of a model averaged over the views of test-time augmentation, with the time each batch takes."""

import time

import torch
from torch import Tensor, nn

from ..augment import Augment, View
from ..data import Dataset
from ..runtime.precision import DTYPES, autocast


class TTAPredictor:
    """Logits of a model, averaged over views with their weights; ``batch_seconds`` is the time of each batch so far."""

    def __init__(self, model: nn.Module, prepare: Augment, precision: str, test_views: list[View]) -> None:
        self.model, self.precision = model, precision
        self.weights = [view.weight for view in test_views]
        self.prepares = [
            Augment(
                [*view.transforms, *prepare.transforms],
                prepare.mean,
                prepare.std,
                seed=prepare.seed,
                dtype=DTYPES[precision],
                channels_last=prepare.channels_last,
            )
            for view in test_views
        ]
        self.batch_seconds: list[float] = []

    @torch.inference_mode()
    def __call__(self, data: Dataset, batch_size: int) -> Tensor:
        """Logits fp32 [N, C] for every image, in the data's order. A first batch that is not timed warms up."""
        parts = torch.arange(len(data), device=data.images.device).split(batch_size)
        self._batch(data, parts[0])
        logits = []
        for part in parts:
            started = time.perf_counter()
            logits.append(self._batch(data, part))
            self.batch_seconds.append(time.perf_counter() - started)
        return torch.cat(logits)

    def _batch(self, data: Dataset, part: Tensor) -> Tensor:
        total = torch.zeros((), device=part.device)
        with autocast(part.device, self.precision):
            for prepare, weight in zip(self.prepares, self.weights, strict=True):
                total = total + weight * self.model(prepare(data.images, data.labels, part, 0).images).float()
        if part.device.type == "cuda":
            torch.cuda.synchronize(part.device)
        return total
