"""Model registry: architectures for small images by name.

>>> from cifarfast.models import create_model, list_models, model_info
>>> list_models("wrn16*")
['wrn16_8', 'wrn16_8_last_bn', 'wrn16_8_no_relu1']
>>> model_info("linear").parameters
30730
"""

# Importing an architecture's file registers its models.
from . import (  # noqa: F401
    alexnet,
    googlenet,
    lenet,
    mlp,
    mobilenet,
    plain_cnn,
    pyramidnet,
    residual,
    resnet,
    vgg,
    wrn,
)
from .create import check_model_name, create_model
from .fused import fuse, stored_in_channels, true_shapes
from .info import ModelInfo, format_table, model_info
from .initialise import INITS, initialise
from .registry import list_models, register, register_family

__all__ = [
    "INITS",
    "ModelInfo",
    "check_model_name",
    "create_model",
    "format_table",
    "fuse",
    "initialise",
    "list_models",
    "model_info",
    "register",
    "register_family",
    "stored_in_channels",
    "true_shapes",
]
