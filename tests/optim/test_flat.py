"""Flat parameters, segments and statistics."""

import copy

import pytest
import torch
from torch import nn

from cifarfast.errors import UserError
from cifarfast.kernels import FLAT_BLOCK
from cifarfast.optim import FlatParameters, FlatStatistics, Region, segment_table
from cifarfast.optim.segments import freeze


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 1), nn.Flatten(), nn.Linear(8 * 36, 5)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def flat_of(model: nn.Module, **settings: object) -> FlatParameters:
    return FlatParameters(model, segment_table(model, weight_decay=0.1), **settings)  # type: ignore[arg-type]


def images() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_flat_model_is_the_model_it_was() -> None:
    model, plain = network(), network()
    parameters = list(model.parameters())
    flat = flat_of(model)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert ours.stride() == theirs.stride(), name
        assert ours.untyped_storage().data_ptr() == flat.master.untyped_storage().data_ptr()
    assert list(model.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True))
    assert torch.equal(model(images()), plain(images()))
    assert flat.master.abs().sum().item() == pytest.approx(sum(p.abs().sum().item() for p in plain.parameters()))
    assert all(offset % FLAT_BLOCK == 0 for offset in flat.table.offsets)


def test_plain_weights_load_into_the_buffer_and_its_copies() -> None:
    model, other = network(), network()
    for p in other.parameters():
        nn.init.normal_(p)
    flat = flat_of(model, compute_dtype=torch.bfloat16)
    model.load_state_dict(other.state_dict())
    for name, view in flat.views(flat.master).items():
        assert torch.equal(view, other.get_parameter(name))
        leaf = flat.leaves[name]
        assert leaf.dtype == (torch.float32 if leaf.ndim == 1 else torch.bfloat16)
        assert torch.equal(leaf, other.get_parameter(name).to(leaf.dtype))
    plain = network()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain(images()), other(images()))


@pytest.mark.parametrize(
    ("settings", "tolerance"), [({}, 0.0), ({"separate": True}, 0.0), ({"compute_dtype": torch.bfloat16}, 0.02)]
)
def test_gradients_are_gathered(settings: dict[str, object], tolerance: float) -> None:
    model, plain = network(), network()
    flat = flat_of(model, **settings)
    with flat.computing(), torch.autocast("cpu", torch.bfloat16, enabled=tolerance > 0):
        flat.gather(torch.autograd.grad(model(images()).float().square().sum(), list(flat.leaves.values())))
    plain(images()).square().sum().backward()
    assert not any(p.grad is not None for p in model.parameters())
    total = nn.utils.get_total_norm([p.grad for p in plain.parameters()])
    for name, parameter in plain.named_parameters():
        # of the whole gradient: that of a bias before a batch norm is 0 but for rounding
        assert (flat.grad_views[name] - parameter.grad).norm() <= tolerance * total, name
    inside = sum(view.square().sum() for view in flat.grad_views.values())
    torch.testing.assert_close(flat.grad_norm(), inside.sqrt())


def test_computing_puts_everything_back() -> None:
    model = network()
    flat = flat_of(model, separate=True)
    seen = []

    def fail_inside() -> None:
        with flat.computing():
            seen.append(model[0].weight)
            model(torch.zeros(1))

    with pytest.raises(RuntimeError):
        fail_inside()
    assert seen[0] is flat.leaves["0.weight"]
    assert model[0].weight is flat.parameters["0.weight"]


def test_a_gradient_of_another_layout_and_a_missing_one() -> None:
    model = network()
    flat = flat_of(model)
    gradients: list[torch.Tensor | None] = [torch.randn(leaf.shape) for leaf in flat.leaves.values()]
    names = list(flat.leaves)
    gradients[names.index("0.weight")] = torch.randn(4, 3, 3, 3)  # contiguous, the weight is channels_last
    gradients[names.index("5.bias")] = None
    flat.grad_views["5.bias"].fill_(3.0)
    flat.gather(gradients)
    for name, gradient in zip(names, gradients, strict=True):
        assert torch.equal(flat.grad_views[name], torch.zeros(5) if gradient is None else gradient), name


def test_tied_weights_are_one_segment_with_one_gradient() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    plain = copy.deepcopy(model)
    flat = flat_of(model, compute_dtype=torch.bfloat16)
    assert [s.name for s in flat.segments] == ["0.weight", "0.bias"]
    assert model[0].weight is model[1].weight
    x = torch.randn(3, 4)
    with flat.computing():
        assert model[0].weight is model[1].weight is flat.leaves["0.weight"]
        with torch.autocast("cpu", torch.bfloat16):
            flat.gather(torch.autograd.grad(model(x).float().sum(), list(flat.leaves.values())))
    plain(x).sum().backward()
    torch.testing.assert_close(flat.grad_views["0.weight"], plain[0].weight.grad, rtol=0.05, atol=0.05)


def test_a_recurrent_layer_computes_with_the_leaves() -> None:
    """It keeps its weights in a list of its own beside the parameters."""
    torch.manual_seed(0)
    model = nn.LSTM(4, 3)
    plain, x = copy.deepcopy(model), torch.randn(2, 5, 4)
    flat = flat_of(model, separate=True)
    with flat.computing():
        flat.gather(torch.autograd.grad(model(x)[0].square().sum(), list(flat.leaves.values())))
    plain(x)[0].square().sum().backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(flat.grad_views[name], parameter.grad)


def test_parameters_that_left_the_buffer_are_noticed() -> None:
    model = network()
    weights = copy.deepcopy(model.state_dict())
    flat_of(model)
    with pytest.raises(RuntimeError, match=r"parameter 0\.weight is no longer part of the flat buffer"):
        model.load_state_dict(weights, assign=True)
    moved = network()
    flat_of(moved)
    moved.double().float()
    with pytest.raises(RuntimeError, match=r"parameter 0\.weight is no longer part of the flat buffer"):
        moved.load_state_dict(weights)


def test_frozen_parameters_stay_out() -> None:
    model = network()
    freeze(model, {"0": 0.0, "1": 0.5})
    before = model[0].weight
    table = segment_table(model, weight_decay=0.0, lr_scale={"0": 0.0, "1": 0.5})
    assert [(s.name, s.lr_scale) for s in table if s.lr_scale != 1] == [("1.weight", 0.5), ("1.bias", 0.5)]
    flat = FlatParameters(model, table)
    assert not any(name.startswith("0.") for name in flat.leaves)
    assert model[0].weight is before
    assert not before.requires_grad


def test_the_longest_prefix_counts_and_whole_parts_only() -> None:
    model = nn.Sequential()
    for name in ("layer1", "layer10"):
        model.add_module(name, nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    table = segment_table(model, weight_decay=0.0, lr_scale={"layer1": 0.5, "layer1.1": 2.0})
    scales = {s.name: s.lr_scale for s in table}
    assert [scales[f"{layer}.weight"] for layer in ("layer1.0", "layer1.1", "layer10.0")] == [0.5, 2.0, 1.0]
    with pytest.raises(UserError, match="lr_scale names 'layer2', but no parameter begins so"):
        segment_table(model, weight_decay=0.0, lr_scale={"layer2": 0.5})


def test_segments() -> None:
    model = network()
    table = segment_table(model, weight_decay=0.1, decay_norm_and_bias=False, l2={"0": 0.5}, muon=True)
    rows = [(s.name, s.region, s.weight_decay, s.l2) for s in table]
    assert rows == [
        ("3.weight", Region.ORTHOGONAL, 0.1, 0.0),
        ("0.weight", Region.HALF, 0.1, 0.5),
        ("5.weight", Region.HALF, 0.1, 0.0),
        ("0.bias", Region.FULL, 0.0, 0.0),
        ("1.weight", Region.FULL, 0.0, 0.0),
        ("1.bias", Region.FULL, 0.0, 0.0),
        ("3.bias", Region.FULL, 0.0, 0.0),
        ("5.bias", Region.FULL, 0.0, 0.0),
    ]
    flat = FlatParameters(model, table)
    assert [flat.region(region) for region in Region] == [slice(0, 1024), slice(1024, 4096), slice(4096, 9216)]
    with pytest.raises(UserError, match="l2 names layer 'con1'"):
        segment_table(model, weight_decay=0.0, l2={"con1": 1.0})
    with pytest.raises(UserError, match="no trainable parameters"):
        segment_table(model.requires_grad_(False), weight_decay=0.0)


def test_a_parameter_that_is_no_matrix_of_a_layer_keeps_full_precision() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions = nn.Parameter(torch.randn(3, 4))
            self.dense = nn.Linear(4, 2)

    flat = flat_of(Positions(), compute_dtype=torch.bfloat16)
    assert flat.leaves["positions"].dtype == torch.float32
    assert flat.leaves["dense.weight"].dtype == torch.bfloat16


def test_parameters_of_another_dtype_or_with_gaps_are_refused() -> None:
    with pytest.raises(UserError, match=r"parameter weight is torch\.float64"):
        flat_of(nn.Linear(2, 2).double())
    model = nn.Linear(2, 2)
    model.weight = nn.Parameter(torch.randn(2, 4)[:, ::2])
    with pytest.raises(UserError, match="parameter weight has gaps"):
        flat_of(model)


def test_statistics_are_views() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(5))
    before = copy.deepcopy(model.state_dict())
    statistics = FlatStatistics(model)
    assert (len(statistics.values), len(statistics.counts)) == (16, 2)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model[0](torch.randn(4, 3, 2, 2))
    assert torch.equal(statistics.values[:3], model[0].running_mean)
    assert statistics.counts.tolist() == [1, 0]
    nothing = FlatStatistics(nn.Linear(2, 2))
    assert (len(nothing.values), len(nothing.counts)) == (0, 0)
