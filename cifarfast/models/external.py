"""Models of torchvision and timm by name, without pretrained weights."""

import copy
from typing import Any

import torch
from torch import nn

from cifarfast.errors import UserError, nearest

LIBRARIES = ("torchvision", "timm")
LARGEST_PROBED_SIZE = 512


def is_external(name: str) -> bool:
    """Whether ``name`` is ``torchvision:NAME`` or ``timm:NAME``."""
    return name.partition(":")[0] in LIBRARIES and ":" in name


def create_external(
    name: str, *, num_classes: int, in_channels: int, image_size: int, dropout: float | None
) -> nn.Module:
    """Build ``torchvision:NAME`` or ``timm:NAME`` with its own initialisation; nothing is downloaded.

    ``dropout`` sets ``drop_rate`` in timm; for torchvision it is left to the caller.

    Raises:
        UserError: unknown name, timm not installed, an option the model does not take, or images it cannot take.
    """
    check_external_name(name)
    library, _, model_name = name.partition(":")
    if library == "timm":
        model = _create_timm(model_name, num_classes, in_channels, dropout)
    else:
        model = _create_torchvision(model_name, num_classes, in_channels)
    _check_image_size(name, model, in_channels, image_size)
    return model


def check_external_name(name: str) -> None:
    """Raise the ``UserError`` of ``create_external`` where the library has no model of this name."""
    library, _, model_name = name.partition(":")
    if library == "timm":
        _check_timm_name(model_name)
        return
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if model_name not in known:
        raise UserError(
            f"torchvision has no classification model {model_name!r}{nearest(model_name, known)} "
            "(torchvision.models.list_models() has all)"
        )


def _check_timm_name(name: str) -> None:
    try:
        import timm
    except ImportError:
        raise UserError("timm: models need the timm package: pip install cifarfast[timm]") from None
    if not timm.is_model(name):
        raise UserError(f"timm has no model {name!r}{nearest(name, timm.list_models())} (timm.list_models() has all)")
    architecture, dot, tag = name.partition(".")
    if dot:
        raise UserError(
            f"timm:{name}: {tag} names pretrained weights, which are not loaded; "
            f"timm:{architecture} trains from random ones"
        )


def _create_torchvision(name: str, num_classes: int, in_channels: int) -> nn.Module:
    import torchvision

    # GoogLeNet and Inception return tuples in training unless their auxiliary classifiers are switched off.
    extra = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **extra)
    if in_channels != 3:
        replace_first_conv(model, in_channels)
    return model


def _create_timm(name: str, num_classes: int, in_channels: int, dropout: float | None) -> nn.Module:
    import timm

    extra: dict[str, Any] = {} if dropout is None else {"drop_rate": dropout}
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=num_classes, in_chans=in_channels, **extra
        )
    except (TypeError, RuntimeError) as error:
        raise UserError(f"timm:{name} does not take these settings: {error}") from error
    return model


def replace_first_conv(model: nn.Module, in_channels: int) -> None:
    """Exchange the model's first convolution, which reads three channels, for one that reads ``in_channels``.

    The new weight is the old one summed over its channels (one channel), or its channels repeated in turn and scaled by
    3 / ``in_channels``: the response to a grey image stays what it was.
    """
    name, old = next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    assert old.groups == 1
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    with torch.no_grad():
        channels = torch.arange(in_channels) % old.in_channels
        repeated = old.weight[:, channels] * (old.in_channels / in_channels)
        new.weight.copy_(old.weight.sum(1, keepdim=True) if in_channels == 1 else repeated)
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, new)


def _check_image_size(name: str, model: nn.Module, in_channels: int, image_size: int) -> None:
    """Run the model on the meta device, which costs no arithmetic, to see whether it takes images of this size."""
    probe = copy.deepcopy(model).to("meta").eval()

    def failure(size: int) -> str | None:
        try:
            with torch.no_grad():
                probe(torch.empty(1, in_channels, size, size, device="meta"))
        except (RuntimeError, AssertionError, ValueError) as error:
            return str(error).partition("\n")[0]
        return None

    reason = failure(image_size)
    if reason is None:
        return
    smallest = next((size for size in range(1, LARGEST_PROBED_SIZE + 1) if failure(size) is None), None)
    possible = f"; the smallest possible is {smallest}×{smallest}" if smallest else ""
    raise UserError(f"{name} does not take {image_size}×{image_size} images{possible} ({reason})")
