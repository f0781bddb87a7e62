"""Logits of a model for a whole data set."""

import torch
from torch import Tensor, nn

from ..augment import Augment
from ..data import Dataset
from ..runtime.cuda_graphs import CUDAGraphs
from ..runtime.distributed import World
from ..runtime.precision import autocast


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    data: Dataset,
    prepare: Augment,
    *,
    batch_size: int,
    precision: str,
    graphs: CUDAGraphs | None = None,
    world: World | None = None,
) -> Tensor:
    """Logits fp32 [N, C] of a model in eval mode for every image of a data set, in its order, on the images' device.

    Args:
        model: on the images' device.
        data: the images.
        prepare: turns indices into a batch.
        batch_size: images at once.
        precision: "fp32", "bf16" or "fp16".
        graphs: records the forward pass, for a model that is evaluated again and again.
        world: processes that share the work; all of them get all logits.
    """
    device, world = data.images.device, world or World()
    every = torch.arange(len(data), device=device)
    mine = every[world.shard(len(data))]

    def forward(batch: Tensor) -> Tensor:
        # the epoch as a number: a graph would go on reading a tensor that is gone after this call
        with autocast(device, precision):
            return model(prepare(data.images, data.labels, batch, 0).images).float()

    if not len(mine):  # fewer images than processes, and not every model takes an empty batch
        return world.gather(forward(every[:1])[:0], len(data))
    logits = []
    for part in mine.split(batch_size):
        if graphs is None or not graphs.enabled:
            logits.append(forward(part))
        else:
            key = ("evaluate", id(model), id(data), len(part))
            static = graphs.keep(key, torch.empty_like(part))
            static.copy_(part)
            logits.append(graphs.run(key, lambda static=static: forward(static)).clone())  # type: ignore[misc]
    return world.gather(torch.cat(logits), len(data))
