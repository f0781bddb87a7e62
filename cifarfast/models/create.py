"""``create_model``: from a name and a few settings to a module."""

from torch import nn

from cifarfast.errors import UserError

from .external import check_external_name, create_external, is_external
from .initialise import check_init, initialise
from .registry import find_entry


def check_model_name(name: str) -> None:
    """Raise the ``UserError`` of ``create_model`` where there is no model of this name; nothing is built."""
    if is_external(name):
        check_external_name(name)
    else:
        find_entry(name)


def create_model(
    name: str,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: int = 32,
    init: str = "default",
    dropout: float | None = None,
) -> nn.Module:
    """Build a model by name, with random weights from torch's generator.

    The model maps images ``[N, in_channels, image_size, image_size]`` to logits ``[N, num_classes]``; it works in
    channels_last, under autocast and on the meta device. Parameters keep the order in which the architecture registers
    them, which is the order of the layers in the forward pass with a block's shortcut last.

    Args:
        name: one of ``list_models()``, a member of a family (``wrn{depth}_{width}``, ``pyramidnet{depth}_a{alpha}``),
            ``torchvision:NAME`` or ``timm:NAME``.
        num_classes: number of logits.
        in_channels: channels of the images, 1 for grey, 3 for colour.
        image_size: side of the images in pixels.
        init: ``default``, ``kaiming_normal`` or ``xavier``, see ``initialise``.
        dropout: rate of every dropout layer; ``None`` keeps the architecture's own rates.

    Raises:
        UserError: an unknown name or initialisation, an image size that is too small, or a dropout rate where the
            architecture has no dropout.
    """
    check_init(init)
    for setting, value in (("num_classes", num_classes), ("in_channels", in_channels), ("image_size", image_size)):
        if value < 1:
            raise UserError(f"{setting} must be at least 1, got {value}")
    if dropout is not None and not 0 <= dropout < 1:
        raise UserError(f"dropout must be at least 0 and below 1, got {dropout}")
    if is_external(name):
        model = create_external(
            name, num_classes=num_classes, in_channels=in_channels, image_size=image_size, dropout=dropout
        )
    else:
        entry = find_entry(name)
        if image_size < entry.min_image_size:
            smallest = entry.min_image_size
            raise UserError(
                f"{name} cannot take {image_size}×{image_size} images; the smallest possible is {smallest}×{smallest}"
            )
        model = entry.build(num_classes=num_classes, in_channels=in_channels, image_size=image_size, **entry.options)
    if dropout is not None and not name.startswith("timm:"):
        set_dropout(name, model, dropout)
    initialise(model, init)
    return model


def set_dropout(name: str, model: nn.Module, rate: float) -> None:
    """Set the rate of every dropout layer; ``UserError`` where there is none."""
    layers = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    if not layers:
        raise UserError(f"{name} has no dropout layer; leave the dropout setting out")
    for layer in layers:
        layer.p = rate
