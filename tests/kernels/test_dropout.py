"""Draws, properties and errors of ``dropout``, beyond what its OpSpec generates."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from cifarfast.kernels import BatchNormAct2d, Dropout, ShakeDrop, batch_norm_act, dropout, share_randomness
from cifarfast.kernels.philox import philox_4x32


def _kept(shape: tuple[int, ...], device: str, p: float, *, last: bool = False, **counters: object) -> Tensor:
    """Which elements stay, forward and backward alike."""
    x = torch.ones(shape, device=device)
    x = (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_()
    out = dropout(x, p, **counters)
    (gradient,) = torch.autograd.grad(out, x, torch.full_like(out, 2.0))
    assert torch.equal(gradient, 2 * out)
    return (out.detach() != 0).cpu()


def _counters(device: str, seed: int = 7, step: int = 3) -> dict[str, Tensor]:
    return {"seed": torch.tensor(seed, device=device), "step": torch.tensor(step, device=device)}


@pytest.mark.parametrize(("channels", "last"), [(24, True), (24, False), (13, True), (13, False)])
def test_draws_are_those_of_philox(channels: int, last: bool, implementation: str) -> None:
    n, height, width, seed, step, layer = 3, 2, 4, -(2**62) - 5, 2**33 + 9, 12
    indices = torch.tensor([2**32 - 1, 0, 77])
    groups = -(-channels // 8)
    bits = torch.zeros(n, channels, height, width, dtype=torch.int64)
    for sample, channel, row, column in itertools.product(range(n), range(channels), range(height), range(width)):
        block = torch.tensor((row * width + column) * groups + channel // 8)
        words = philox_4x32(seed, indices[sample] % 2**32, step % 2**32, layer * 256 + 7, block)
        half, word = divmod(channel % 8, 4)
        bits[sample, channel, row, column] = (int(words[word]) >> (16 * half)) & 0xFFFF
    threshold = int(bits.median())  # an element that is at the threshold stays
    expected, p = bits >= threshold, threshold / 2**16
    counters = {**_counters(implementation, seed, step), "indices": indices.to(implementation), "layer": layer}
    shape = tuple(expected.shape)
    assert torch.equal(_kept(shape, implementation, p, last=last, **counters), expected)
    # batch norm's kernels make the same draws
    x = torch.ones(shape, device=implementation).contiguous(memory_format=torch.channels_last)
    zeros, ones = torch.zeros(channels, device=implementation), torch.ones(channels, device=implementation)
    assert torch.equal((batch_norm_act(x, zeros, ones, dropout_p=p, **counters) != 0).cpu(), expected)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.9])
def test_mean_over_draws_is_the_input(p: float, backend_name: str, implementation: str) -> None:
    shape = (30, 96) if (backend_name, implementation) == ("triton", "cpu") else (1000, 960)
    out = dropout(torch.ones(shape, device=implementation), p, **_counters(implementation))
    deviation = (p / (1 - p) / out.numel()) ** 0.5
    assert abs(out.double().mean().item() - 1) <= 5 * deviation
    # neither in rows nor in columns do the draws depend on each other
    for dim in (0, 1):
        means = out.double().mean(dim) - 1
        expected = p / (1 - p) / shape[dim]
        spread = means.square().mean().item() / expected
        assert abs(spread - 1) <= 5 * (2 / len(means)) ** 0.5


def test_module_is_a_dropout_that_shares_randomness() -> None:
    model = nn.Sequential(nn.Flatten(), Dropout(0.25), nn.Linear(12, 12), Dropout(0.5), ShakeDrop(0.5))
    seed, step, indices = torch.tensor(3), torch.tensor(0), torch.tensor([5, 9])
    assert share_randomness(model, seed, step, indices) == 3
    assert [model[i].layer for i in (1, 3, 4)] == [0, 1, 0]  # each kind counts its own
    assert isinstance(model[1], nn.Dropout)
    assert share_randomness(nn.Sequential(Dropout(0.0), Dropout(0.1)), seed, step) == 1
    assert model.state_dict().keys() == {"2.weight", "2.bias"}
    x = torch.randn(2, 12)
    expected = dropout(x, 0.25, seed=seed, step=step, layer=0, indices=indices)
    assert torch.equal(model[1](x), expected)
    step += 1
    assert not torch.equal(model[1](x), expected)
    assert model[1].eval()(x) is x
    assert model[1](x[:1]) is not None  # the indices are of a training step's batch


def test_batch_norm_takes_a_dropout_module() -> None:
    torch.manual_seed(0)
    norm, drop = BatchNormAct2d(16), Dropout(0.3)
    share_randomness(drop, torch.tensor(3), torch.tensor(1), torch.arange(4))
    x = torch.randn(4, 16, 3, 3)
    apart = drop(norm(x))
    assert torch.equal(norm(x, dropout=drop), apart)
    assert (apart == 0).sum() > (norm(x) == 0).sum()
    assert torch.equal(norm(x, dropout=drop.eval()), norm(x))


def test_a_module_that_would_overwrite_its_input() -> None:
    with pytest.raises(ValueError, match="inplace must be False"):
        Dropout(0.1, inplace=True)
