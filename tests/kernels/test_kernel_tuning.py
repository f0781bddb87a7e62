"""The tile tables: default, override per GPU model, and what they must satisfy."""

import json
from pathlib import Path

import pytest
import torch

from cifarfast.kernels.backend import registered
from cifarfast.kernels.tuning import tables as tuning

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "default.json").write_text(
        json.dumps({"a": [{"up_to": 4, "rows": 1}, {"up_to": 8, "rows": 2}], "b": [{"up_to": 9, "rows": 3}]})
    )
    monkeypatch.setattr(tuning, "_FOLDER", tmp_path)
    tuning.clear()
    yield tmp_path
    tuning.clear()


def test_slug() -> None:
    assert tuning.slug("NVIDIA H200") == "nvidia-h200"
    assert tuning.slug(" Intel(R) Xeon(R) CPU @ 2.20GHz") == "intel-r-xeon-r-cpu-2-20ghz"


def test_first_row_that_reaches_the_size(folder: Path) -> None:
    assert [tuning.tile("a", size, CPU)["rows"] for size in (1, 4, 5, 8)] == [1, 1, 2, 2]
    with pytest.raises(ValueError, match="a: no tile for size 9; the largest is 8"):
        tuning.tile("a", 9, CPU)


def test_a_gpu_model_overrides_whole_ops(folder: Path) -> None:
    table = {"about": {"gpu": "NVIDIA H200"}, "a": [{"up_to": 100, "rows": 7}]}
    (folder / "nvidia-h200.json").write_text(json.dumps(table))
    tables = tuning.load("NVIDIA H200")
    assert tables["a"] == [{"up_to": 100, "rows": 7}]
    assert tables["b"] == [{"up_to": 9, "rows": 3}]
    assert tuning.load("NVIDIA A100")["a"][0]["rows"] == 1


def test_override_and_assume(folder: Path) -> None:
    (folder / "nvidia-h200.json").write_text(json.dumps({"a": [{"up_to": 100, "rows": 7}]}))
    with tuning.assume("NVIDIA H200"):
        assert tuning.tile("a", 5, CPU) == {"rows": 7}
        assert tuning.tile("b", 5, CPU) == {"rows": 3}
        with tuning.override({"b": {"rows": 9}}):
            assert tuning.tile("b", 10**6, CPU) == {"rows": 9}
            with tuning.override({"a": {"rows": 4}}):
                assert [tuning.tile(op, 5, CPU)["rows"] for op in "ab"] == [4, 9]
            assert tuning.tile("a", 5, CPU) == {"rows": 7}
    assert [tuning.tile(op, 5, CPU)["rows"] for op in "ab"] == [2, 3]
    with pytest.raises(ZeroDivisionError), tuning.override({"a": {"rows": 8}}):
        raise ZeroDivisionError
    assert tuning.tile("a", 5, CPU) == {"rows": 2}


TABLES = [path for path in Path(tuning.__file__).parent.glob("*.json") if ".measurements" not in path.name]


@pytest.mark.parametrize("table", sorted(TABLES), ids=lambda path: path.stem)
def test_committed_tables(table: Path) -> None:
    for op, rows in tuning.load(table.stem).items():
        assert op in registered()
        for row in rows:
            sizes = {name: value for name, value in row.items() if name != "up_to" and not name.endswith("stages")}
            assert all(value & (value - 1) == 0 for value in sizes.values()), (op, row)
