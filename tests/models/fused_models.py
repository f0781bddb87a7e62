"""Running a plain model and its fused twin on the same weights, images and random numbers."""

import copy
from collections.abc import Mapping
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from small_models import narrow
from torch import Tensor, nn

from cifarfast.kernels import share_randomness
from cifarfast.models import create_model, fuse, true_shapes
from cifarfast.models.fused.padding import true_part
from cifarfast.models.registry import find_entry

Results = dict[str, Tensor]


def create_pair(name: str, *, whole: bool = False, **settings: float) -> tuple[nn.Module, nn.Module]:
    """A plain model, none of whose vectors is all 0 or 1, and its fused twin; with few channels but when ``whole``."""
    torch.manual_seed(0)
    with nullcontext() if whole else narrow():
        model = create_model(name, **{"image_size": smallest_image(name), **settings})
    state = model.state_dict()
    for key, value in state.items():
        if value.is_floating_point() and value.dim() == 1:
            low, high = (-0.5, 0.5) if key.endswith(("bias", "mean")) else (0.5, 1.5)
            value.uniform_(low, high)
    return model, fuse(copy.deepcopy(model))


def smallest_image(name: str) -> int:
    return max(8, find_entry(name).min_image_size)


def make_images(size: int, *, count: int = 4, channels: int = 3) -> Tensor:
    """Numbers that bfloat16 can hold."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, size, size, generator=generator).bfloat16().float()


def run(model: nn.Module, images: Tensor, *, step: int = 5, autocast: torch.dtype | None = None) -> Results:
    """Logits, the gradient of each parameter and the running statistics after it, all at their true shapes."""
    device = images.device
    counters = [torch.tensor(value, device=device) for value in (3, step)]
    share_randomness(model, *counters, torch.arange(100, 100 + len(images), device=device))
    torch.manual_seed(7)
    model.zero_grad()
    labels = torch.arange(len(images), device=device) % 10
    with torch.autocast(device.type, autocast, enabled=autocast is not None):
        logits = model(images)
    F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), labels).backward()
    results = {"logits": logits.detach()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        results[f"gradient {name}"] = at_true_shape(model, name, parameter.grad)
    return results | {name: value.clone() for name, value in model.state_dict().items() if "running" in name}


def at_true_shape(model: nn.Module, name: str, tensor: Tensor) -> Tensor:
    shape = true_shapes(model).get(name)
    return tensor if shape is None else true_part(tensor, shape)


def padding(model: nn.Module, tensors: Mapping[str, Tensor]) -> Tensor:
    """What lies behind the true shapes, of all given tensors that are stored padded, end to end."""
    parts = [torch.zeros(0)]
    for name, shape in true_shapes(model).items():
        if name in tensors:
            behind = torch.ones(tensors[name].shape, dtype=torch.bool)
            true_part(behind, shape).fill_(False)
            parts.append(tensors[name].detach().cpu()[behind])
    return torch.cat(parts)


KINDS = ("logits", "gradient", "running_mean", "running_var")


def joined(results: Results, kind: str) -> Tensor:
    """All results of a kind as one fp64 vector."""
    chosen = [value for name, value in results.items() if name.startswith(kind) or name.endswith(kind)]
    return torch.cat([value.double().cpu().flatten() for value in chosen])


def assert_within_error(fused: Results, plain: Results, truth: Results, *, tiny: float, kinks: float) -> None:
    """By RMS, the fused model's error against fp64 is at most twice the plain model's and ``tiny`` of the truth.

    ``kinks`` is in ``tiny``'s place for gradients: where a ReLU's input rounds to the other side of 0, in one model and
    not in the other, a gradient changes in a step.
    """
    for kind in KINDS:
        true = joined(truth, kind)
        error, plain_error = (rms(joined(results, kind) - true) for results in (fused, plain))
        allowed = 2 * plain_error + (kinks if kind == "gradient" else tiny) * rms(true)
        assert error <= allowed, f"{kind}: error {error:.3g}, plain torch {plain_error:.3g}, allowed {allowed:.3g}"


def rms(values: Tensor) -> float:
    return values.square().mean().sqrt().item()
