"""How the torch implementations of the flat ops cut buffers, and the path that never reads a tensor's value."""

import pytest
import torch

from cifarfast.kernels import FLAT_BLOCK, flat_table
from cifarfast.kernels.flat import rows
from cifarfast.kernels.testing.check import run
from cifarfast.kernels.testing.spec import SampleMaker, all_specs

SPECS = {spec.name: spec for spec in all_specs() if spec.name.startswith("flat_")}
CPU = torch.device("cpu")


def test_pieces_are_runs_of_equal_settings() -> None:
    table = flat_table([10, FLAT_BLOCK, 3 * FLAT_BLOCK, 5], weight_decay=[0.5, 0.5, 0.0, 0.0], lr_scale=[1, 1, 1, 0])
    pieces = list(rows.pieces(table.length - 7, table.settings, CPU, torch.float32))
    bounds = [(p.elements.start // FLAT_BLOCK, p.elements.stop) for p in pieces]
    assert bounds == [(0, 2 * FLAT_BLOCK), (2, 5 * FLAT_BLOCK), (5, table.length - 7)]
    assert [(p.lr_scale, p.weight_decay, p.frozen) for p in pieces] == [(1, 0.5, False), (1, 0, False), (0, 0, True)]


@pytest.mark.parametrize("blocks", [1, 128, 129, 300])
def test_pieces_cover_everything_once(blocks: int) -> None:
    length = blocks * FLAT_BLOCK - 3
    for settings in (None, flat_table([length]).settings):
        pieces = list(rows.pieces(length, settings, CPU, torch.float32))
        assert [p.elements.start for p in pieces[1:]] == [p.elements.stop for p in pieces[:-1]]
        assert (pieces[0].elements.start, pieces[-1].elements.stop) == (0, length)


@pytest.mark.parametrize("name", SPECS)
def test_without_reading_values(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU without Triton: settings and scalars stay tensors, with the same results but for rounding."""

    def refuse(tensor: torch.Tensor) -> None:
        raise AssertionError("a value was read")

    spec = SPECS[name]
    for case in spec.cases.values():
        inputs = case(SampleMaker(torch.float32))
        expected, _ = run(spec, spec.function, inputs)
        with monkeypatch.context() as patch:
            patch.setattr(rows, "readable", lambda device: False)
            patch.setattr(torch.Tensor, "item", refuse)
            patch.setattr(torch.Tensor, "tolist", refuse)
            patch.setattr(torch.Tensor, "__bool__", refuse)
            outputs, _ = run(spec, spec.function, inputs)
        torch.testing.assert_close(outputs, expected, rtol=1e-6, atol=1e-6)
