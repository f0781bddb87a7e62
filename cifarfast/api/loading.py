"""``cifarfast.load``."""

from pathlib import Path
from typing import Literal

import torch

from ..runs.run_folder import RunFolder
from .loaded_model import LoadedModel, load_network
from .run import Run


def load(
    run: Run | RunFolder | str | Path,
    *,
    weights: Literal["auto", "model", "ema"] = "auto",
    device: str | torch.device = "auto",
) -> LoadedModel:
    """The trained network of a run, a checkpoint or an ensemble, with its preprocessing attached, in eval mode.

    >>> import cifarfast
    >>> run = cifarfast.train("quickstart", epochs=1, out="runs/loaded", quiet=True)
    >>> model = cifarfast.load(run, device="cpu")
    >>> import numpy as np
    >>> images = np.zeros((2, 32, 32, 1), np.uint8)
    >>> model.predict(images).shape
    torch.Size([2, 10])
    >>> logits = model(model.preprocess(images))
    >>> model.classes[int(logits[0].argmax())] in "0123456789"
    True

    Args:
        run: a run or its folder (the newest checkpoint that verifies), or the folder of one checkpoint.
        weights: "model", "ema", or "auto" for the averaged weights where the run keeps them.
        device: "auto" takes a GPU when there is one.

    Raises:
        UserError: there is nothing to load, it is damaged, or it was written by another version.
    """
    path = run.path if isinstance(run, Run | RunFolder) else Path(run)
    return load_network(path, weights=weights, device=device)
