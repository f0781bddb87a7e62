"""A trained network with its preprocessing attached, as ``cifarfast.load`` returns it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import Background
from ..data.image_files import read_image, to_pixels
from ..ensembling import EnsembleClassifier, load_model
from ..errors import UserError
from ..inference.classifier import ImageClassifier, Preprocess, Weights, precision_on
from ..recipes.recipe import Recipe
from ..runs.environment import pick_device
from ..runtime.files import user_path
from ..runtime.precision import autocast


class LoadedModel(nn.Module):
    """The attributes and methods that every loaded network has besides its own.

    ``attach`` gives a network a class of its own that is both: ``isinstance`` holds for either, and parameters,
    ``state_dict``, ``forward``, ``.to``, ``copy.deepcopy`` and ``torch.save`` are the network's. Called, it takes what
    ``preprocess`` returns and gives logits.

    Attributes:
        classes: names, in the order of the logits.
        image_size: pixels a side of the images it was trained on; others are resized to it.
        in_channels: 1 (grey) or 3 (red, green, blue).
        recipe: the settings it was trained with.
    """

    classes: tuple[str, ...]
    image_size: int
    in_channels: int
    recipe: Recipe

    def preprocess(self, images: Any) -> Tensor:
        """Normalised images float32 ``[N, C, H, W]`` on the model's device.

        Args:
            images: one image or several; one counts as a batch of one.

                * Paths of image files, or a sequence of them, read as ``cifarfast predict`` does.
                * Pillow images with 8 or 16 bits a channel, or a sequence of them; turned upright as their EXIF
                  orientation says, made grey or coloured as the model needs, transparency laid
                  on the background of the recipe.
                * uint8 arrays or tensors ``[H, W, C]`` or ``[N, H, W, C]``, as data sets have them; grey also
                  ``[H, W]``.
                * floating-point arrays or tensors ``[C, H, W]`` or ``[N, C, H, W]`` with values 0…1, as torchvision's
                  ``ToTensor`` makes them. Gradients flow through unless the recipe enlarges its images.
                * a sequence of any of these that become images of one kind.

                Images of another size are resized (bilinear, antialiased, the aspect ratio is not kept).

        Raises:
            UserError: anything else; says what is allowed.
        """
        pixels = self._pixels(images)
        prepare: Preprocess = self.__dict__["_prepare"]
        device = _device(self)
        return prepare.to(device)(pixels.to(device))

    def _pixels(self, images: Any) -> Tensor:
        return _to_pixels(images, _Target(self.image_size, self.in_channels, self.recipe.background))

    def predict(self, images: Any, *, batch_size: int = 500) -> Tensor:
        """Probabilities float32 ``[N, len(classes)]`` of images that ``preprocess`` takes, on the model's device.

        Computed in eval mode, without gradients, in the precision it was trained in where the device has it.

        Raises:
            UserError: as ``preprocess``.
        """
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: it must be at least 1")
        pixels = self._pixels(images)
        device, was_training = _device(self), self.training
        prepare: Preprocess = self.__dict__["_prepare"].to(device)
        self.eval()
        try:
            with torch.inference_mode(), autocast(device, precision_on(self.recipe, device.type)):
                logits = [self(prepare(part.to(device))) for part in pixels.split(batch_size)]
                return torch.cat(logits).float().softmax(dim=1)
        finally:
            self.train(was_training)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _rebuild, (type(self).__bases__[1],), self.__dict__


def load_network(path: Path, *, weights: Weights, device: str | torch.device) -> LoadedModel:
    """The network of a run, a checkpoint or an ensemble at ``path``, in eval mode: see ``cifarfast.load``."""
    try:
        where = torch.device(pick_device("auto") if device == "auto" else device)
    except RuntimeError as error:
        raise UserError(f"device {device!r}: {str(error).splitlines()[0]}") from None
    if where.type == "cuda":
        pick_device("cuda")  # a line where there is none
    classifier = load_model(path, weights=weights, device=where.type)
    return attach(classifier.to(where))


def attach(classifier: ImageClassifier | EnsembleClassifier) -> LoadedModel:
    """The network of a classifier as a ``LoadedModel``; it is changed, not copied."""
    if isinstance(classifier, ImageClassifier):
        network, prepare = classifier.model, classifier.preprocess
    else:
        channels = classifier.in_channels
        network, prepare = _OfUnitImages(classifier), Preprocess([0.0] * channels, [1.0] * channels)
    network.__class__ = _class_of(type(network))
    assert isinstance(network, LoadedModel)
    network.classes = tuple(classifier.classes)
    network.image_size, network.in_channels = classifier.image_size, classifier.in_channels
    network.recipe = classifier.recipe
    network.__dict__["_prepare"] = prepare  # not a submodule: the network's modules and buffers stay its own
    return network


class _OfUnitImages(nn.Module):
    """An ensemble as a network of images ``[N, C, H, W]`` with values 0…1, as each member normalises in its own way."""

    def __init__(self, ensemble: EnsembleClassifier) -> None:
        super().__init__()
        self.ensemble = ensemble

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, num_classes]``."""
        return self.ensemble((x * 255).permute(0, 2, 3, 1))


_CLASSES: dict[Any, Any] = {}  # a network's class → that of its loaded form; one each, so that copies share it


def _class_of(network: Any) -> Any:
    if network not in _CLASSES:
        about = {"__module__": network.__module__, "__doc__": network.__doc__}
        _CLASSES[network] = type(network.__name__, (LoadedModel, network), about)
    return _CLASSES[network]


def _rebuild(network: type) -> Any:
    """An empty object of the class that ``attach`` gives a network, for pickle and copy to fill."""
    made = _class_of(network)
    return made.__new__(made)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@dataclass(frozen=True)
class _Target:
    """What images are turned into: pixels a side, channels, and what shows through where they are transparent."""

    side: int
    channels: int
    background: Background


def _to_pixels(images: Any, target: _Target) -> Tensor:
    """Pixels 0…255 ``[N, side, side, channels]``, uint8, or float32 for floating-point images."""
    if isinstance(images, str | Path):
        return torch.from_numpy(read_image(user_path(images), target.side, target.channels, target.background))[None]
    if isinstance(images, Image.Image):
        return _from_pillow(images, target)
    if isinstance(images, np.ndarray):
        images = _as_tensor(images)
    if isinstance(images, Tensor):
        return _from_tensor(images, target)
    if isinstance(images, list | tuple | Iterator) and (parts := [_to_pixels(i, target) for i in images]):
        if len({part.dtype for part in parts}) == 1:
            return torch.cat(parts)
        raise UserError("images are partly uint8 and partly floating-point: make them all of one kind")
    raise UserError(
        f"images must be image files, Pillow images, uint8 [N, H, W, {target.channels}], floating-point "
        f"[N, {target.channels}, H, W] in 0…1, or a sequence of these that is not empty; got {type(images).__name__}"
    )


def _from_pillow(image: Image.Image, target: _Target) -> Tensor:
    try:
        return torch.from_numpy(to_pixels(image, target.side, target.channels, target.background))[None]
    except UserError as error:
        raise UserError(f"an image cannot be used: {error}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"cannot read an image: {' '.join(str(error).split())}") from None


def _as_tensor(array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "uif":
        raise UserError(f"images must be uint8 (0…255) or floating-point (0…1), not an array of {array.dtype}")
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))  # torch takes no reversed views
    try:
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    except TypeError:
        raise UserError(
            f"images must be uint8 (0…255) or floating-point (0…1), not an array of {array.dtype}"
        ) from None


def _from_tensor(images: Tensor, target: _Target) -> Tensor:
    if images.dtype == torch.uint8:
        return _from_bytes(images, target)
    if images.is_floating_point():
        return _from_floats(images, target)
    raise UserError(f"images must be uint8 (0…255) or floating-point (0…1), not {images.dtype}")


def _from_bytes(images: Tensor, target: _Target) -> Tensor:
    shape, side, channels = list(images.shape), target.side, target.channels
    if images.dim() == 2 and channels == 1:
        images = images[..., None]
    if images.dim() == 3:
        images = images[None]
    if images.dim() != 4 or images.shape[3] != channels or 0 in images.shape:
        raise UserError(f"uint8 images must be [N, H, W, {channels}] or [H, W, {channels}], not {shape}")
    if images.shape[1:3] == (side, side):
        return images.contiguous()
    arrays = images.cpu().numpy()
    pictures = [Image.fromarray(array[..., 0] if channels == 1 else array) for array in arrays]
    return torch.cat([_from_pillow(picture, target) for picture in pictures])


def _from_floats(images: Tensor, target: _Target) -> Tensor:
    shape, side, channels = list(images.shape), target.side, target.channels
    if images.dim() == 3:
        images = images[None]
    if images.dim() != 4 or images.shape[1] != channels or 0 in images.shape:
        raise UserError(f"floating-point images must be [N, {channels}, H, W] or [{channels}, H, W], not {shape}")
    low, high = images.detach().aminmax()
    if not (low >= 0 and high <= 1):
        raise UserError(f"floating-point images must have values 0…1, these have {float(low):g}…{float(high):g}")
    images = images.float().contiguous()
    if images.shape[2:] != (side, side):
        images = F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return (images * 255).permute(0, 2, 3, 1)
