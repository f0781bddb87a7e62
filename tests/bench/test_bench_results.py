"""What benchmark sessions write, what of earlier ones stays, and the tables made from it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import record, render
from bench.measure import measure_rates, quantiles
from bench.ops_verdicts import WANTED, verdict_name
from bench.record import Recorder, merge, sessions
from bench.render import op_table, op_times, step_table
from bench.targets import Outcome, Target, judge, load_results, shortfall_table

GPU = {"name": "NVIDIA H200", "cuda": "13.0", "cudnn": 91000}


@pytest.fixture
def on_h200(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "session_environment", lambda: {"gpu": GPU, "commit": "abc"})


@pytest.mark.usefixtures("on_h200")
def test_a_session_replaces_the_file(tmp_path: Path) -> None:
    for value in (1, 2):
        recorder = Recorder(tmp_path)
        recorder.add("ops", {"name": f"row {value}", "value": value})
        path = recorder.write("ops")
    assert path == tmp_path / "nvidia-h200" / "ops.json"
    assert [row["name"] for row in json.loads(path.read_text())["rows"]] == ["row 2"]


@pytest.mark.usefixtures("on_h200")
def test_earlier_rows_stay_unless_measured_anew(tmp_path: Path) -> None:
    for names in (("a", "b"), ("b", "c"), ("c",)):
        recorder = Recorder(tmp_path, keep_earlier=True)
        for name in names:
            recorder.add("ops", {"name": name, "session": names})
            path = recorder.write("ops")  # after every row: none of this session may become an earlier one
    document = json.loads(path.read_text())
    found = [[(row["name"], row["session"]) for row in part["rows"]] for part in sessions(document)]
    assert found == [[("c", ["c"])], [("b", ["b", "c"])], [("a", ["a", "b"])]]
    assert all(part["environment"]["commit"] == "abc" for part in sessions(document))
    rows = load_results(tmp_path / "nvidia-h200")["ops"]
    assert {name: row["session"] for name, row in rows.items()} == {"c": ["c"], "b": ["b", "c"], "a": ["a", "b"]}


def test_a_row_of_the_same_name_is_replaced(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.add("ops", {"name": "a", "value": 1})
    recorder.add("ops", {"name": "a", "value": 2})
    assert recorder.rows == {"ops": [{"name": "a", "value": 2}]}


def test_merge_keeps_nothing_empty() -> None:
    new = {"environment": {}, "rows": [{"name": "a"}]}
    assert merge(new, {"environment": {}, "rows": [{"name": "a"}]}) == new


def test_commit_of_files_without_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFARFAST_COMMIT", "abc")
    monkeypatch.setattr("sys.argv", ["/somewhere/pytest", "-q"])
    for commit, expected in ((None, "abc"), ("def", "def")):
        found: dict[str, Any] = {"commit": commit, "argv": ["/somewhere/pytest", "-q"]}
        monkeypatch.setattr(record, "collect_environment", lambda found=found: dict(found))
        environment = record.session_environment()
        assert environment["commit"] == expected
        assert environment["argv"] == ["pytest", "-q"]


def test_quantiles_and_rates_of_this_machine() -> None:
    assert quantiles([5.0, 1.0, 3.0, 2.0, 4.0]) == {"p20": 1.8, "median": 3.0, "p80": 4.2}
    assert quantiles([7.0]) == {"p20": 7.0, "median": 7.0, "p80": 7.0}
    rates = measure_rates(torch.device("cpu"))
    assert rates.flops_per_second > 1e8
    assert rates.bytes_per_second > 1e8


# targets


def step_row(name: str, **figures: Any) -> dict[str, Any]:
    case, _, contender = name.partition(" | ")
    arch, optimizer, batch = case.split()[:3]
    return {
        "name": name,
        "contender": contender,
        "arch": arch,
        "optimizer": optimizer,
        "batch": int(batch),
        "dropout": "dropout" in case,
        "images_per_second": 1e5,
        "step_ms": {"p20": 1.0, "median": 1.25, "p80": 1.5},
        "times_as_long_as_cifarfast": 1.0,
        "peak_memory_bytes": 2_000_000_000,
        "percent_of_floor": {"nominal_h200": {"a": 90.0, "b": 80.0, "c": 70.0}},
        **figures,
    }


def test_what_fell_short() -> None:
    case = "wrn16_8 asam 128"
    rows = [
        step_row(f"{case} | cifarfast", share_between_steps=0.02, plain_steps=2.0),
        step_row(f"{case} | torch eager", times_as_long_as_cifarfast=2.5),
        step_row(f"{case} | torch.compile max-autotune", times_as_long_as_cifarfast=1.04),
    ]
    outcomes = {o.target.what: o for o in judge({"train_step": {row["name"]: row for row in rows}})}
    shares = {what.partition(": ")[2]: o.share for what, o in outcomes.items() if what.startswith(case)}
    assert shares == {
        "times as fast as torch eager": pytest.approx(1.25),
        "times as fast as torch.compile": pytest.approx(0.8),
        "times floor b": pytest.approx(1.4 * 0.8),
        "plain steps that an ASAM step costs": pytest.approx(1.025),
        "share of the time between steps": pytest.approx(0.5),
    }
    table = shortfall_table(outcomes.values())
    assert f"3 of {len(outcomes)} targets reached." in table
    lines = [line for line in table.splitlines() if line.startswith("| wrn")]
    assert lines == [
        f"| {case}: share of the time between steps | ≤ 0.01 | 0.02 | 2.00 |",
        f"| {case}: times as fast as torch.compile | ≥ 1.3 | 1.04 | 0.80 |",
    ]
    assert "Not measured: wrn16_8 sgd 512: times as fast as torch eager;" in table


def measured(ops: dict[str, Any]) -> list[Outcome]:
    return [outcome for outcome in judge({"ops": ops}) if outcome.measured is not None]


def test_verdicts_of_the_ops_count() -> None:
    verdict = {"op": "batch_norm_act", "case": "x", "what": "share of copy bandwidth", "wanted": 0.85, "met": False}
    (outcome,) = measured({"verdict": {"name": "verdict", "value": 0.68, **verdict}})
    assert outcome.share == pytest.approx(0.8)
    assert "| batch_norm_act x: share of copy bandwidth | ≥ 0.85 | 0.68 | 0.80 |" in shortfall_table([outcome])


def test_ops_are_judged_though_their_session_was_ended() -> None:
    def op_row(implementation: str, seconds: float) -> dict[str, Any]:
        row = {"op": "cross_entropy", "case": "512x10", "implementation": implementation, "median_seconds": seconds}
        return {"name": f"cross_entropy 512x10 | {implementation}", **row}

    ops = {row["name"]: row for row in (op_row("cifarfast", 2.0), op_row("torch eager", 3.0))}
    assert measured(ops) == []
    ops["roofline"] = {"name": "roofline", "bytes_per_second": 1e12}
    (outcome,) = measured(ops)
    assert outcome.share == pytest.approx(0.75)
    verdict = verdict_name("cross_entropy", "512x10", next(w for w in WANTED if "cross_entropy" in w.ops))
    ops[verdict] = {"op": "cross_entropy", "case": "512x10", "what": "w", "wanted": 2.0, "value": 1.9}
    (outcome,) = measured(ops)
    assert outcome.measured == 1.9


def test_nothing_fell_short() -> None:
    reached = Outcome(Target("speed", 2.0, False, lambda _: None), 2.0)
    idle = Outcome(Target("gap", 0.01, True, lambda _: None), 0.0)
    assert shortfall_table([reached, idle]) == "2 of 2 targets reached."


def test_table_of_steps() -> None:
    document = {
        "environment": {"gpu": GPU},
        "rows": [
            step_row("wrn16_8 sgd 512 | torch eager", times_as_long_as_cifarfast=1.6, kernels_per_step=1234.0),
            step_row("wrn16_8 asam 128 dropout | cifarfast", peak_memory_bytes=None, times_as_long_as_cifarfast=None),
            {"name": "airbench94_muon.py", "contender": "airbench94_muon.py"},
        ],
    }
    _, _, *lines = step_table([document]).splitlines()
    assert lines == [
        "| `wrn16_8` with dropout | ASAM, 128 | cifarfast | 100,000 | 1.25 (1.00 … 1.50) | – | – | – | 80 "
        "| NVIDIA H200 |",
        "| `wrn16_8` | SGD, 512 | torch eager | 100,000 | 1.25 (1.00 … 1.50) | 1.60 | 1,234 | 2.00 | 80 "
        "| NVIDIA H200 |",
    ]


def timed_row(op: str, case: str, implementation: str, seconds: float, **figures: Any) -> dict[str, Any]:
    return {
        "name": f"{op} {case} | {implementation}",
        "op": op,
        "case": case,
        "implementation": implementation,
        "median_seconds": seconds,
        "quantile_20_seconds": 0.9 * seconds,
        "quantile_80_seconds": 1.2 * seconds,
        "peak_memory_bytes": 12_345_678,
        "gigabytes_per_second": 3210.4,
        "teraflops_per_second": 0.0004,
        "roofline_percent": 81.26,
        **figures,
    }


OPS = [
    timed_row("conv2d", "a", "cifarfast", 1e-5),
    timed_row("conv2d", "b", "cifarfast", 1.25e-3, peak_memory_bytes=None),
    timed_row("batch_norm_act", "a", "cifarfast", 2e-5),
    timed_row("conv2d", "a", "torch eager", 2e-5),
    timed_row("conv2d", "a", "library", 9e-6, library="cuDNN convolution alone"),
    timed_row("conv2d", "a", "torch.compile", 1.5e-5),
    timed_row("conv2d", "a", "cifarfast kernels", 2e-5),
    {"name": "roofline", "bytes_per_second": 4e12},
    {"name": "verdict | conv2d a | x", "op": "conv2d", "case": "a", "value": 1.0},
]


def test_table_of_ops() -> None:
    """Ours by op, from all sessions on a device, beside what was measured for the same case."""
    sessions = [{"environment": {"gpu": GPU}, "rows": rows} for rows in (OPS[:3], OPS[3:])]
    _, _, *lines = op_table(sessions).splitlines()
    figures = "3,210 | < 0.001 | 81.3"
    assert lines == [
        f"| `batch_norm_act` | a | 20 (18 … 24) | {figures} | 12.3 | – | – | – | NVIDIA H200 |",
        f"| `conv2d` | a | 10 (9 … 12) | {figures} | 12.3 | 2.00 | 1.50 | 0.90, convolution alone | NVIDIA H200 |",
        f"| `conv2d` | b | 1,250 (1,125 … 1,500) | {figures} | – | – | – | – | NVIDIA H200 |",
        f"| `conv2d` | a, own kernels | 20 (18 … 24) | {figures} | 12.3 "
        "| 1.00 | 0.75 | 0.45, convolution alone | NVIDIA H200 |",
    ]


def test_ops_on_a_cpu_are_folded_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "RESULTS", tmp_path)
    assert op_times() == "No measurement is committed yet."
    for folder, environment in {"cpu": {"gpu": None, "cpu": "A CPU"}, "nvidia-h200": {"gpu": GPU}}.items():
        (tmp_path / folder).mkdir()
        document = {"environment": environment, "rows": OPS}
        (tmp_path / folder / "ops.json").write_text(json.dumps(document), encoding="utf-8")
        table, fold, rest = op_times().partition("<details>")
        assert fold
        rows = [line.split(" | ")[:2] for line in rest.splitlines() if line.endswith("| A CPU |")]
        assert rows == [["| `batch_norm_act`", "a"], ["| `conv2d`", "a"]]
        assert table.count("| NVIDIA H200 |") == (4 if folder == "nvidia-h200" else 0)
