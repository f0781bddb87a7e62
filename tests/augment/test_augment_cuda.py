"""The CUDA kernel gives the CPU twin's bits, in one launch, and can be captured in a CUDA graph."""

import pytest
import torch
from test_native_equals_torch import LISTS

from cifarfast.augment import Augment, CutMix, Cutout, RandomCrop, RandomFlip, Resize
from cifarfast.errors import UserError
from cifarfast.runtime import native_build

pytestmark = pytest.mark.gpu
MEAN, STD = [0.49, 0.48, 0.44], [0.2, 0.21, 0.22]


@pytest.fixture(scope="module", autouse=True)
def cuda_code() -> None:
    module = native_build.load()
    if module is None or not module.with_cuda:
        pytest.skip(native_build.status().reason)


def on_gpu(*tensors):
    return tuple(tensor.cuda() for tensor in tensors)


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("options", [{}, {"dtype": torch.bfloat16, "pad_channels": 4}, {"channels_last": False}])
def test_same_bits_as_the_cpu(cifar, name, options):
    augment = Augment(LISTS[name], MEAN, STD, seed=3, backend="native", **options)
    indices = torch.arange(0, 1000, 3)
    host, device = augment(*cifar, indices, 1), augment(*on_gpu(*cifar, indices), 1)
    for field in ("images", "labels", "labels_b", "lam"):
        a, b = getattr(host, field), getattr(device, field)
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b.cpu()), field
    assert host.images.stride() == device.images.stride()


def test_plain_torch_on_a_gpu(cifar):
    indices = torch.arange(200)
    for name in ("crop_flip", "autoaugment", "cutmix", "mixup"):
        augment = Augment(LISTS[name], MEAN, STD, seed=3, backend="torch")
        host, device = augment(*cifar, indices, 1), augment(*on_gpu(*cifar, indices), 1)
        assert torch.allclose(host.images, device.images.cpu(), atol=1e-5)


def test_images_larger_than_shared_memory():
    images = torch.randint(0, 256, (20, 200, 150, 3)).to(torch.uint8)
    labels, indices = torch.arange(20), torch.arange(20)
    for transforms in (LISTS["cutmix"], [RandomCrop(4), Resize(side=256), Cutout(9), CutMix(1.0)]):
        augment = Augment(transforms, MEAN, STD, backend="native")
        host, device = augment(images, labels, indices, 0), augment(*on_gpu(images, labels, indices), 0)
        assert torch.equal(host.images, device.images.cpu())


def test_a_captured_graph_reads_epoch_and_indices_from_the_device(cifar):
    augment = Augment([RandomCrop(4), RandomFlip(), CutMix(1.0, start_epoch=2)], MEAN, STD, backend="native")
    images, labels, indices = on_gpu(*cifar, torch.arange(64))
    epoch = torch.zeros(1, dtype=torch.int64, device="cuda")
    augment(images, labels, indices, epoch)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = augment(images, labels, indices, epoch)
    for number in (0, 2, 5):
        epoch.fill_(number)
        indices.copy_(torch.arange(64) + number)
        graph.replay()
        wanted = augment(*cifar, torch.arange(64) + number, number)
        assert torch.equal(captured.images.cpu(), wanted.images)
        assert torch.equal(captured.lam.cpu(), wanted.lam)


def test_an_index_out_of_range_is_reported_later(cifar):
    augment = Augment([RandomCrop(4)], MEAN, STD, backend="native")
    augment(*on_gpu(*cifar, torch.tensor([5, 1000])), 0)
    with pytest.raises(UserError, match="indices must lie in 0"):
        augment.check()
    augment.check()
