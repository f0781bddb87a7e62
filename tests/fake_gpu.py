"""A training step on tensors that say they are on a GPU and hold nothing: what reads one, or moves one there, fails."""

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cifarfast import augment, optim
from cifarfast.augment import native
from cifarfast.data import load_dataset
from cifarfast.kernels import last_block
from cifarfast.kernels.testing import recorder
from cifarfast.recipes.build import build_augment, build_model
from cifarfast.recipes.recipe import Recipe
from cifarfast.runtime.distributed import World
from cifarfast.training import step
from cifarfast.training.step import TrainStep

GPU = torch.device("cuda", 0)
BATCH, IMAGES = 8, 40


class NothingFromTheHost(TorchDispatchMode):
    """While it watches, an operation on a tensor in the host's memory, such as ``torch.tensor(1)`` makes, is an error.

    Reading a value is one always, as a fake tensor has none. ``operations`` counts those that compute.
    """

    NO_WORK = ("prim::", "aten::empty", "aten::new_empty", "aten::_unsafe_view")

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self._watching = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Context in which it watches."""
        self._watching = True
        try:
            yield
        finally:
            self._watching = False

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = operation(*arguments, **(named or {}))
        if not self._watching:
            return result
        hosts = [leaf for leaf in tree_leaves((arguments, named, result)) if isinstance(leaf, Tensor) and leaf.is_cpu]
        assert not hosts, f"{operation} uses a tensor in the host's memory"
        self.operations += not (operation.is_view or operation.name().startswith(self.NO_WORK))
        return result


class _Kernel:
    """Stands for the compiled augmentation: takes the job and does nothing."""

    with_cuda = True

    class Job:
        def __init__(self, template: Any = None) -> None:
            if template is not None:
                self.__dict__.update(template.__dict__)

    @staticmethod
    def augment_cuda_scratch(job: Any) -> int:
        return 64

    @staticmethod
    def augment_cuda(job: Any, stream: int) -> None:
        return None


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=GPU)


def _move(model: nn.Module) -> nn.Module:
    for module in model.modules():
        for entries, kind in ((module._parameters, nn.Parameter), (module._buffers, Tensor.detach)):
            for key, tensor in entries.items():
                if tensor is not None:
                    entries[key] = kind(_empty(tensor))  # type: ignore[operator]
    return model


@contextlib.contextmanager
def pretended(
    patch: pytest.MonkeyPatch, *, compiled: bool
) -> Iterator[tuple[NothingFromTheHost, list[recorder.Launch]]]:
    """Context in which torch makes fake tensors, this package believes in a GPU and Triton's launches are recorded.

    Yields what can watch, also what this package's own ops do, and the launches.

    Args:
        patch: undoes it afterwards.
        compiled: whether there is compiled augmentation for it, which is not run.
    """
    mode = FakeTensorMode()
    for name in ("device", "device_of"):
        patch.setattr(torch.cuda, name, lambda *_: contextlib.nullcontext())
    patch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
    patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    patch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    # the engine wants a real device for its threads
    patch.setattr(torch.autograd, "grad", lambda _, leaves, *args, **named: [torch.empty_like(leaf) for leaf in leaves])
    patch.setattr(native, "usable", lambda _: _Kernel if compiled else None)
    # fake tensors must not outlive their mode
    patch.setattr(last_block, "_of_device", functools.cache(last_block._Counters))
    # the mode itself is not to be copied with the tensors
    patch.setattr(step, "copy", SimpleNamespace(deepcopy=lambda model: copy.deepcopy(model, {id(mode): mode})))
    _with_values(patch, augment.augmenter, "compile_program")
    _with_values(patch, optim.flat, "flat_table")
    with mode, NothingFromTheHost() as watch, recorder.record(convolutions="library") as launches:
        yield watch, launches


def _with_values(patch: pytest.MonkeyPatch, module: Any, name: str) -> None:
    """Let a function that works out a table do so with real tensors; those in its result become fake."""
    function = getattr(module, name)

    def real(*args: Any, **named: Any) -> Any:
        with unset_fake_temporarily():
            made = function(*args, **named | ({"device": "cpu"} if "device" in named else {}))
        return (
            made._replace(settings=_empty(made.settings)) if hasattr(made, "settings") and "device" in named else made
        )

    patch.setattr(module, name, real)


def operations_of_a_step(patch: pytest.MonkeyPatch, *, compiled: bool = True, **settings: Any) -> int:
    """Run a step on synthetic images as on a GPU, without the network's backward; return how many operations it has,
    those of this package's ops and the launches of its kernels among them.
    """
    base = {"arch": "wrn10_1", "dataset": f"synthetic:classes=10,train={IMAGES},test=6", "batch_size": BATCH}
    recipe = Recipe(**base | {"precision": "bf16", "backend": "fused"} | settings).resolved("cuda")  # type: ignore[arg-type]
    train = load_dataset(recipe.dataset).train
    model = build_model(recipe, train)
    with pretended(patch, compiled=compiled) as (watch, launches):
        train = dataclasses.replace(train, images=_empty(train.images), labels=_empty(train.labels))
        augmentation = build_augment(recipe, (0.5,) * 3, (0.25,) * 3, training=True)
        taken = TrainStep(
            *(recipe, _move(model), train, augmentation),
            samples=IMAGES * (2 if recipe.augmented_copy else 1),
            steps_per_epoch=5,
            world=World(),
        )
        model.train()
        indices = torch.zeros(1, dtype=torch.int64, device=GPU)
        augmentation(train.images, train.labels, indices, 0)  # its tables
        last_block.take_counters(1, GPU)  # the first makes them
        launches.clear()
        with watch.watching():
            taken.run(BATCH, recipe.sam != "none")
        assert taken.flat.master.device == GPU
    return watch.operations + len(launches)
