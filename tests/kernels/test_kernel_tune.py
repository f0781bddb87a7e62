"""The tuner without a GPU: candidates, choices, files, and going on after an interruption."""

import json
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cifarfast.kernels.testing.spec import all_specs
from cifarfast.kernels.tuner import command as tune
from cifarfast.kernels.tuner import precompiler
from cifarfast.kernels.tuner.candidates import candidates, label
from cifarfast.kernels.tuner.command import main
from cifarfast.kernels.tuner.precompiler import Precompiler
from cifarfast.kernels.tuner.record import Measurements, write_whole
from cifarfast.kernels.tuner.search import Search
from cifarfast.kernels.tuner.select import as_text, fastest, merged_rows
from cifarfast.kernels.tuner.workloads import PARTS_OF, Workload, by_importance, workloads
from cifarfast.kernels.tuning import tables as tuning
from cifarfast.kernels.tuning.tables import Tile

ABOUT = {"gpu": "NVIDIA Example", "torch": "2"}
TUNED = [spec for spec in all_specs() if spec.tile_size]
LARGE_SIZES = 2**31 - 1


def search(
    folder: Path, measure: Callable[[Workload, Tile], float], ops: list[str], **options: Any
) -> tuple[bool, Any]:
    """Tune some ops; whether all is measured, and the table."""
    table = folder / "nvidia-example.json"
    measurements = Measurements(folder / "nvidia-example.measurements.json", ABOUT)
    options = {"deadline": 1.0, "clock": lambda: 0.0, "say": lambda text: None, **options}
    complete = Search(table, measurements, measure, **options).run(ops)
    return complete, json.loads(table.read_text()) if table.is_file() else None


def no_measurement(workload: Workload, row: Tile) -> float:
    raise AssertionError("measured again")


def tiles(row: Tile) -> Tile:
    return {name: value for name, value in row.items() if name != "up_to"}


@pytest.mark.parametrize("op", [spec.name for spec in TUNED])
def test_candidates(op: str) -> None:
    assert workloads(op)
    for workload in workloads(op):
        if workload.op in PARTS_OF and not workload.part:
            continue
        default = {"default": 1}
        rows = candidates(op, workload.part, workload.size, default)
        assert rows[0] is default
        assert len({label(row) for row in rows}) == len(rows) > 3
        for row in rows[1:]:
            sizes = {name: value for name, value in row.items() if not name.endswith("stages")}
            assert all(value > 0 and value & (value - 1) == 0 for value in sizes.values()), row


@pytest.mark.parametrize("op", [spec.name for spec in TUNED])
def test_candidates_have_the_names_of_the_default_table(op: str) -> None:
    finder = Search(Path(), None, no_measurement, deadline=1.0)  # type: ignore[arg-type]
    for workload in workloads(op):
        if workload.part or op not in PARTS_OF:
            default, *others = finder.rows(workload)
            assert default == tuning.tile(op, workload.size, torch.device("cpu"))
            assert all(row.keys() == default.keys() for row in others)


@pytest.mark.parametrize("size", [16, 24, 48, 72, 120, 128, 168, 256, 512])
def test_convolution_candidates_fit_the_machine(size: int) -> None:
    for part in ("fwd", "dgrad", "wgrad"):
        rows = candidates("conv2d", part, size, {})[1:]
        assert 3 < len(rows) < 30
        for row in rows:
            rows_and_columns = row["depth"] * row["channels"], row["pixels"] * row["channels"]
            accumulators = rows_and_columns[part != "wgrad"] // (32 * row["warps"])
            assert accumulators <= 128, row
            operands = (row["depth"] + row["channels"], row["pixels"] + row["channels"])[part != "wgrad"]
            assert 2 * operands * row["pixels" if part == "wgrad" else "depth"] * row["stages"] <= 227 * 1024, row


def test_workloads_cover_both_networks_at_both_batches() -> None:
    for spec in TUNED:
        names = " ".join(workload.case for workload in workloads(spec.name))
        if spec.name.startswith("flat_"):
            assert "WRN-16-8" in names
            assert "PyramidNet-110" in names
        elif spec.name not in ("cross_entropy", "max_pool_bn_act"):
            # some ops occur in one of the networks only
            networks = [network for network in ("PyramidNet", "WRN") if network in names]
            assert networks
            assert all(f"{network} {n}x" in names for network in networks for n in (128, 512)), spec.name


def test_parts_of_a_convolution_come_before_the_whole() -> None:
    parts = [workload.part for workload in workloads("conv2d") if workload.size == 128]
    assert parts == [part for part in ("fwd", "dgrad", "wgrad", "") for _ in range(2)]
    assert {workload.part for workload in workloads("conv2d_bn_act")} == {""}
    assert not any("stride 2" in workload.case for workload in workloads("bn_act_conv2d"))


def test_the_fastest_row() -> None:
    a, b, c = ({"rows": n} for n in (1, 2, 4))
    assert fastest([a, b, c], [{"rows=1": 3.0, "rows=2": 1.0, "rows=4": 2.0}]) == b
    # in units of each case's own time: b is twice as slow in the first and four times as fast in the second
    assert fastest([a, b], [{"rows=1": 1.0, "rows=2": 2.0}, {"rows=1": 4e-3, "rows=2": 1e-3}]) == b
    assert fastest([a, b], [{"rows=1": 1.0, "rows=2": 0.995}]) == a  # noise
    assert fastest([b, a], [{"rows=1": 1.0, "rows=2": 0.995}]) == b
    assert fastest([a, b, c], [{"rows=1": "wrong: output 0", "rows=2": 2.0, "rows=4": 1.999}]) == c
    assert fastest([a, b], [{"rows=1": 1.0, "rows=2": 0.1}, {"rows=1": 1.0, "rows=2": "failed"}]) == a
    assert fastest([a], [{"rows=1": "failed"}]) is None
    assert fastest([a], []) is None


def test_merged_rows() -> None:
    default = [{"up_to": 16, "x": 1}, {"up_to": 64, "x": 2}, {"up_to": LARGE_SIZES, "x": 4}]
    assert merged_rows(default, {}, whole=True) == default
    part = merged_rows(default, {32: {"x": 8}}, whole=False)
    assert part == [{"up_to": 16, "x": 1}, {"up_to": 32, "x": 8}, *default[1:]]
    whole = merged_rows(default, {24: {"x": 8}, 32: {"x": 8}, 48: {"x": 1}}, whole=True)
    assert whole == [{"up_to": 32, "x": 8}, {"up_to": 48, "x": 1}, *default[1:]]
    assert merged_rows(default, {64: {"x": 4}}, whole=True) == [{"up_to": LARGE_SIZES, "x": 4}]


def test_a_tables_text_is_what_the_library_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {"flat_ema": [{"up_to": 9, "block": 2}], "batch_norm_act": [{"up_to": 1, "x": 1}, {"up_to": 2, "x": 4}]}
    text = as_text(ABOUT, tables)
    assert text == as_text(ABOUT, dict(reversed(tables.items())))
    assert text.index("batch_norm_act") < text.index("flat_ema")
    assert '  {"up_to": 1, "x": 1},\n' in text
    (tmp_path / "nvidia-example.json").write_text(text)
    (tmp_path / "default.json").write_text('{"flat_norm": [{"up_to": 3, "block": 1}]}')
    monkeypatch.setattr(tuning, "_FOLDER", tmp_path)
    tuning.clear()
    assert tuning.load("NVIDIA Example") == {**tables, "flat_norm": [{"up_to": 3, "block": 1}]}
    tuning.clear()


def test_search_takes_the_fastest_of_each_size(tmp_path: Path) -> None:
    wanted = {}

    def measure(workload: Workload, row: Tile) -> float:
        best = finder.rows(workload)[workload.size % 5 + 1]
        wanted[workload.size] = best
        return 1e-6 if row == best else 2e-6

    finder = Search(Path(), None, measure, deadline=1.0)  # type: ignore[arg-type]
    complete, table = search(tmp_path, measure, ["batch_norm_act"])
    assert complete
    assert table.pop("about") == ABOUT
    assert table.keys() == {"batch_norm_act"}
    rows = table["batch_norm_act"]
    assert rows[-1] == tuning.load("default")["batch_norm_act"][-1]
    for size, best in wanted.items():
        assert tiles(next(row for row in rows if size <= row["up_to"])) == best
    assert (tmp_path / "nvidia-example.json").read_text() == as_text(ABOUT, {"batch_norm_act": rows})
    # nothing is measured twice, and the table comes out the same
    before = (tmp_path / "nvidia-example.json").read_bytes()
    assert search(tmp_path, no_measurement, ["batch_norm_act"])[0]
    assert (tmp_path / "nvidia-example.json").read_bytes() == before


def convolution_time(own_wins: Callable[[int], bool]) -> Callable[[Workload, Tile], float]:
    """Parts are fastest with the most warps; the whole op's own kernels win where ``own_wins`` says so."""

    def measure(workload: Workload, row: Tile) -> float:
        if workload.part:
            return 1e-3 / row[f"{workload.part}_warps"] + 1e-6 * row[f"{workload.part}_pixels"]
        return 2e-3 if row["library"] or not own_wins(workload.size) else 1e-3

    return measure


def test_a_convolution_runs_where_it_wins(tmp_path: Path) -> None:
    measured = []

    def measure(workload: Workload, row: Tile) -> float:
        measured.append((workload, row))
        return convolution_time(lambda size: size in (72, 256))(workload, row)

    complete, table = search(tmp_path, measure, ["conv2d_bn_act"])
    assert complete
    assert table.keys() == {"about", "conv2d_bn_act", "conv2d"}  # whose kernels it uses
    rows = {row["up_to"]: row for row in table["conv2d_bn_act"]}
    assert [size for size, row in sorted(rows.items()) if not row["library"]] == [72, 256]
    assert rows[72]["fwd_warps"] == 8
    assert rows[72]["fwd_pixels"] == 64 or rows[72]["fwd_warps"] * 16 <= rows[72]["fwd_pixels"]
    own = [row for workload, row in measured if workload.op == "conv2d_bn_act"]
    assert {row["library"] for row in own} == {0, 1}
    # the whole op is compared at the tiles that won apart
    for workload, row in measured:
        if workload.op == "conv2d_bn_act" and workload.size in rows:
            assert {**row, "library": 0} == {**tiles(rows[workload.size]), "library": 0}


def test_going_on_where_the_time_ran_out(tmp_path: Path) -> None:
    measured: list[tuple[Workload, str]] = []

    def measure(workload: Workload, row: Tile) -> float:
        measured.append((workload, label(row)))
        return convolution_time(lambda size: True)(workload, row)

    rounds = 0
    complete = False
    while not complete:
        begun = len(measured)
        complete, table = search(
            tmp_path, measure, ["conv2d"], deadline=begun + 150.0, clock=lambda: float(len(measured))
        )
        rounds += 1
    assert rounds > 3
    assert len(set(measured)) == len(measured)
    alone = tmp_path / "alone"
    assert search(alone, convolution_time(lambda size: True), ["conv2d"])[1] == table


def test_what_died_is_not_tried_again(tmp_path: Path) -> None:
    calls = []

    def dies(workload: Workload, row: Tile) -> float:
        calls.append(label(row))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 1e-6

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, dies, ["flat_perturb"])
    assert not search(tmp_path, no_measurement, ["flat_perturb"], deadline=0.0)[0]
    complete, _ = search(tmp_path, lambda workload, row: 1e-6 if label(row) != calls[2] else 1e-9, ["flat_perturb"])
    assert complete
    results = json.loads((tmp_path / "nvidia-example.measurements.json").read_text())["results"]
    first = results[workloads("flat_perturb")[0].key]
    assert first[calls[2]] == "failed: the process died"
    assert first[calls[0]] == first[calls[1]] == 1e-6


def test_wrong_and_failing_candidates_are_kept_out(tmp_path: Path) -> None:
    def measure(workload: Workload, row: Tile) -> float:
        if row["num_warps"] == 8:
            raise AssertionError("output 0: error 3.0 times what is allowed")
        if row["num_warps"] == 2:
            raise RuntimeError("out of resource: shared memory")
        return 1e-6

    said: list[str] = []
    complete, table = search(tmp_path, measure, ["flat_optimizer"], say=said.append)
    assert complete
    assert [row["num_warps"] for row in table["flat_optimizer"]] == [4]
    assert "the default is wrong: output 0" in said[0]
    assert "candidates are wrong or failed" in said[0]

    def hopeless(workload: Workload, row: Tile) -> float:
        raise AssertionError("output 0")

    said.clear()
    complete, table = search(tmp_path / "other", hopeless, ["flat_ema"], say=said.append)
    assert complete
    assert table is None
    assert said[0].endswith("no candidate is right")


def test_a_broken_gpu_ends_the_run(tmp_path: Path) -> None:
    def measure(workload: Workload, row: Tile) -> float:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        search(tmp_path, measure, ["flat_ema"])
    results = json.loads((tmp_path / "nvidia-example.measurements.json").read_text())["results"]
    ((_, failed),) = results.items()
    assert len(failed) == 1


def test_a_broken_gpu_is_left_to_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(self: Search, ops: list[str]) -> bool:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    started: list[list[str]] = []
    monkeypatch.setattr(tune, "_unsupported_reason", lambda: None)
    monkeypatch.setattr(tune, "about", lambda: ABOUT)
    monkeypatch.setattr(Search, "run", run)
    monkeypatch.setattr(
        tune.subprocess, "run", lambda command: started.append(command) or SimpleNamespace(returncode=7)
    )
    arguments = ["--op", "flat_ema", "--out", str(tmp_path / "x.json"), "--budget-seconds", "100"]
    assert main(arguments) == 7
    ((_, *rest, budget),) = started
    assert rest == ["-m", "cifarfast.kernels.tune", *arguments]
    assert 90 < float(budget.partition("--budget-seconds=")[2]) <= 100  # argparse takes the last
    assert "going on in another process" in capsys.readouterr().out
    monkeypatch.setattr(Search, "run", lambda self, ops: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(arguments)


def test_what_matters_comes_first() -> None:
    everything = [workload for spec in TUNED for workload in workloads(spec.name)]
    ordered = by_importance(everything)
    assert sorted(ordered, key=everything.index) == everything
    place = {workload: i for i, workload in enumerate(ordered)}

    def places(op: str, text: str) -> list[int]:
        return [i for workload, i in place.items() if workload.op == op and text in workload.case]

    assert max(places("batch_norm_act", " 128x")) < min(places("shakedrop_bn_shortcut", " 128x"))
    assert max(places("shakedrop_bn_shortcut", " 128x")) < min(places("bn_act_conv2d", " 128x"))
    assert max(places("bn_act_conv2d", "WRN 128x")) < min(places("bn_act_conv2d", "between 128x"))
    assert max(places("max_pool_bn_act", " 128x")) < min(places("batch_norm_act", " 512x"))
    # a convolution's kernels apart, then the whole
    for workload in ordered:
        if workload.op in PARTS_OF and not workload.part:
            parts = [p for p in workloads(PARTS_OF[workload.op]) if p.part and p.size == workload.size]
            alike = [p for p in parts if (" 128x" in p.case) == (" 128x" in workload.case)]
            assert {p.part for p in alike} == {"fwd", "dgrad", "wgrad"}
            assert all(place[part] < place[workload] for part in alike)


def test_a_table_of_the_small_batches_alone(tmp_path: Path) -> None:
    measured: list[Workload] = []

    def measure(workload: Workload, row: Tile) -> float:
        measured.append(workload)
        return 1e-6 if row["num_warps"] == 8 else 2e-6

    small = [p for p in workloads("batch_norm_act") if "128x" in p.case.replace("x128x", "x")]
    count = sum(len(Search(Path(), None, measure, deadline=1.0).rows(p)) for p in small)  # type: ignore[arg-type]
    complete, table = search(
        tmp_path, measure, ["batch_norm_act"], deadline=float(count), clock=lambda: float(len(measured))
    )
    assert not complete
    assert set(measured) == set(small)
    sizes = {workload.size for workload in small}
    rows = {row["up_to"]: row for row in table["batch_norm_act"]}
    chosen = [next(row for up_to, row in sorted(rows.items()) if size <= up_to) for size in sizes]
    assert {row["num_warps"] for row in chosen} == {8}


def test_candidates_are_compiled_in_the_order_of_their_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def compile_candidate(workload: Workload, row: Tile) -> None:
        compiled.append((workload.case, label(row)))
        if row["block"] == 2:
            raise RuntimeError("ptxas failed")

    monkeypatch.setattr(precompiler, "compile_candidate", compile_candidate)
    monkeypatch.setattr(precompiler, "get_context", lambda method: SimpleNamespace(Pool=ThreadPool))
    first, second, other = (
        Workload("op", "", case, 16) for case in ("WRN 128x16x8x8", "WRN 512x16x8x8", "WRN 128x8x8x8")
    )
    rows = [{"block": 1}, {"block": 2}]
    processes = Precompiler(1)
    todo = [(workload, row) for workload in (first, second, other) for row in rows]
    assert processes.start(todo) == 4  # the number of images is in no code
    for workload, row in todo:
        processes.wait(workload, row)  # also for what failed
    processes.wait(Workload("unknown", "", "case", 1), rows[0])
    assert compiled == [(workload.case, label(row)) for workload in (first, other) for row in rows]
    processes.close()
    processes.close()
    Precompiler(2).close()


def test_compiling_launches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    jit = pytest.importorskip("triton.runtime.jit")
    calls = []
    monkeypatch.setattr(jit.JITFunction, "run", lambda self, *args, **settings: calls.append((args, settings)))
    before = jit.JITFunction.run
    kernel = jit.JITFunction(no_measurement)
    with precompiler.compiling_only():
        kernel[(3,)](1, BLOCK=2)
    assert calls == [((1,), {"grid": (3,), "warmup": True, "BLOCK": 2})]
    assert jit.JITFunction.run is before


def test_measurements_are_about_one_machine(tmp_path: Path) -> None:
    path = tmp_path / "x.measurements.json"
    measurements = Measurements(path, ABOUT)
    measurements.put("workload", "row", 1.5)
    measurements.save()
    assert Measurements(path, ABOUT).get("workload", "row") == 1.5
    assert Measurements(path, ABOUT).get("workload", "other") is None
    with pytest.raises(ValueError, match="has measurements with torch 2, not 3: write elsewhere"):
        Measurements(path, {**ABOUT, "torch": "3"})
    for text in ("{", "[]", '{"results": {}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="is no file of measurements"):
            Measurements(path, ABOUT)


def test_a_file_is_the_old_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder" / "table.json"
    write_whole(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--op", "flat_ema", "--out", str(tmp_path / "x.json")]) == 2
    assert capsys.readouterr().err == (
        "tuning needs an NVIDIA GPU of compute capability 8.0 or later, and there is none\n"
    )
    assert not list(tmp_path.iterdir())


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, text in ((["--op", "softmax"], "softmax"), (["--budget-seconds", "0"], "must be positive")):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 2
        assert text in capsys.readouterr().err


def test_every_op_with_tiles_is_tuned() -> None:
    assert {spec.name for spec in TUNED} == set(tuning.load("default"))
