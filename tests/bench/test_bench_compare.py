"""The comparison of two checkouts: what it calls different, and how kernels of two sides are matched."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from bench.compare_checkouts import __main__ as program
from bench.compare_checkouts import launches, texts
from bench.compare_checkouts.machine_code import Code, Kernel, compare_matches, match, parse_code
from bench.compare_checkouts.runs import compare_folders
from bench.compare_checkouts.sides import Pair, Row, Side, SideError, keys_that_differ
from bench.op_call.__main__ import cells, row

SASS = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;                 /* 0x00000a00ff017b82 */
                                                                          /* 0x000fe20000000800 */
        /*0010*/              @!P0 EXIT ;                                 /* 0x000000000000894d */
        /*0020*/             @!UPT UIADD3 URZ, URZ, URZ, URZ ;            /* 0x0000003f3f3ff290 */
        /*0030*/                   BRA 0x30;                              /* 0xfffffffc00fc7947 */
        /*0040*/                   NOP;                                   /* 0x0000000000007918 */
"""


def kernel(name: str = "k", digest: str = "d", instructions: int = 10, **constants: Any) -> Kernel:
    settings = (("num_warps", 4), ("shared", 0))
    return Kernel(name, tuple(sorted(constants.items())), (("x", "*bf16"),), settings, Code(8, 0, instructions, digest))


def outcomes(rows: Any) -> set[str]:
    return {row.outcome for row in rows}


def test_machine_code_is_counted_without_its_padding() -> None:
    code = parse_code("REG:24 STACK:8 SHARED:0 LOCAL:16", SASS)
    assert code.numbers() == (24, 24, 4)
    assert code.digest == parse_code("REG:9 STACK:0 LOCAL:0", SASS.replace("NOP", "NOP ")).digest
    assert code.digest != parse_code("REG:24 STACK:8 LOCAL:16", SASS.replace("R1,", "R2,")).digest


def test_kernels_are_matched_whatever_their_constants_are_called() -> None:
    old = [
        kernel(digest="a", BLOCK=1),
        kernel(digest="b", BLOCK=2),
        kernel(digest="c", BLOCK=3, low=1),
        kernel("f", "e"),
    ]
    new = [
        kernel(digest="x", TILE=3, mean_lo=1, instructions=11),  # renamed constants, other code
        kernel(digest="y", BLOCK=2, instructions=9),
        kernel(digest="a", TILE=1),
        kernel("g", "e"),
        kernel("alone", "z"),
    ]
    found, only_old, only_new = match(old, new)
    assert {(a.code.digest, b.code.digest, how) for a, b, how in found} == {
        ("a", "a", "same code"),
        ("b", "y", "same configuration"),
        ("c", "x", "same values"),
        ("e", "e", "same code, other name"),
    }
    assert (only_old, [k.name for k in only_new]) == ([], ["alone"])
    changed = [row for row in compare_matches(found) if "instructions" in row.detail]
    assert {row.outcome: row.detail.partition(" (")[0] for row in changed} == {
        "more": "instructions 10 → 11",
        "fewer": "instructions 10 → 9",
    }


def test_kernels_with_another_constant_are_matched_by_what_they_share() -> None:
    old = [kernel(digest="a", BLOCK=64, STRIDE=1), kernel(digest="b", BLOCK=64, STRIDE=2)]
    new = [kernel(digest="c", BLOCK=64, STRIDE=2, PADS=0), kernel(digest="d", BLOCK=64, STRIDE=1, PADS=0)]
    found, *_ = match(old, new)
    assert {(a.code.digest, b.code.digest) for a, b, _ in found} == {("a", "d"), ("b", "c")}
    other_launch = [replace(k, settings=(("num_warps", 8), ("shared", 0))) for k in new]
    assert match(old, other_launch)[0] == []


def test_launches() -> None:
    table = "| `conv_kernel` | triton | 3 | kernels/x.py:1 |\n| `add_` | torch | 5 | a.py:1, b.py:2 |\n\n8 in all"
    old = launches.counts({"code": 0, "out": table, "err": ""})
    assert old == {("triton", "conv_kernel"): 3, ("torch", "add_"): 5}
    assert outcomes(launches.compare_counts("case", old, old)) == {"equal"}
    assert outcomes(launches.compare_counts("case", old, old | {("torch", "add_"): 4})) == {"equal", "fewer"}
    assert "more" in outcomes(launches.compare_counts("case", old, old | {("torch", "mul"): 1}))
    # what moves from one kernel to another is seen though the sum is the same
    moved = {("triton", "conv_kernel"): 4, ("torch", "add_"): 4}
    assert "conv_kernel" in " ".join(r.what for r in launches.compare_counts("case", old, moved) if r.outcome == "more")
    with pytest.raises(SideError):
        launches.counts({"code": 0, "out": "nothing", "err": ""})


def run_folder(path: Path, **tensors: float) -> Path:
    checkpoint = path / "checkpoints" / "step-000000002-evaluated"
    checkpoint.mkdir(parents=True)
    for kind in ("model", "optimizer"):
        save_file({"w": np.full(3, tensors.get(kind, 1.0), np.float32)}, checkpoint / f"{kind}.safetensors")
    state = {"progress": {"epoch": 1, "timing": [{"train_seconds": 1.0}]}}
    (checkpoint / "state.json").write_text(json.dumps(state))
    (path / "config.toml").write_text("lr = 1.0\n")
    (path / "metrics.csv").write_text("epoch,lr\n1,1.0\n")
    (path / "result.json").write_text(json.dumps({"test_loss": 1.0, "train_seconds": 2.0}))
    np.savez_compressed(path / "predictions.npz", logits=np.zeros((2, 3), np.float32), labels=np.zeros(2, np.int64))
    return path


def test_run_folders(tmp_path: Path) -> None:
    old = run_folder(tmp_path / "old")
    new = Path(shutil.copytree(old, tmp_path / "new"))
    (new / "result.json").write_text(json.dumps({"test_loss": 1.0, "train_seconds": 3.0}))
    assert outcomes(compare_folders("runs", "a", old, new)) == {"equal"}
    (new / "metrics.csv").write_text("epoch,lr\n1,1.00\n")
    other = run_folder(tmp_path / "other", optimizer=np.nextafter(np.float32(1), np.float32(2)))
    for folder, what in ((new, "a: metrics.csv"), (other, "a: optimizer.safetensors")):
        assert [r.what for r in compare_folders("runs", "a", old, folder) if not r.passes] == [what]
    (other / "report.html").touch()
    assert "a: files" in [r.what for r in compare_folders("runs", "a", old, other) if not r.passes]


def test_json_is_compared_key_by_key() -> None:
    assert keys_that_differ({"a": {"b": 1, "c": 2}, "d": None}, {"a": {"b": 1, "c": 3}}) == [
        "a.c: 2 → 3",
        "d only in the old",
    ]


def test_a_help_text_may_be_reworded_but_not_its_flags() -> None:
    old = {"code": 0, "out": "│ --lr FLOAT   Peak rate. (default: 0.1) │\n│ --how {a,b} │", "err": ""}
    reworded = old | {"out": "│ --lr FLOAT   The peak rate.\n (default:\n 0.1) │\n│ --how {a,b} │"}
    assert texts.flags_of(old) == texts.flags_of(reworded) == ["--lr", "(default: 0.1)", "--how", "{a,b}"]
    assert texts.flags_of(old) != texts.flags_of(old | {"out": str(old["out"]).replace("0.1", "0.2")})


def test_entries_run_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "said.py").write_text("import sys\nprint(sys.argv[1:], __name__)\nsys.exit(int(sys.argv[1]))\n")
    (tmp_path / "fails.py").write_text("print(1 / 0)\n")
    found = Side("old", tmp_path).entries([("said", ("0",)), ("said", ("3", "x")), ("fails", ())])
    assert [each["code"] for each in found] == [0, 3, 1]
    assert found[1]["out"] == "['3', 'x'] __main__\n"
    assert "ZeroDivisionError" in found[2]["err"]
    assert "CHECKOUT" in found[2]["err"]


def test_a_side_that_is_not_what_is_imported(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for package in (here / "cifarfast", here / "kernels", elsewhere / "kernels"):
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
    (here / "cifarfast" / "__init__.py").write_text(f"__path__.append({str(here)!r})\n")
    Side("new", here).check()
    (here / "cifarfast" / "__init__.py").write_text(f"__path__.append({str(elsewhere)!r})\n")
    with pytest.raises(SideError, match="elsewhere"):
        Side("new", here).check()


def test_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = [Row("flags", "names", "equal"), Row("flags", "help", "reworded", "a → b")]

    def broken(pair: Pair) -> Any:
        yield found[0]
        raise SideError("it ended with 1")

    monkeypatch.setattr(Side, "check", lambda side: None)
    monkeypatch.setitem(program.PARTS, "flags", lambda pair: iter(found))
    assert program.main([str(tmp_path), str(tmp_path), "--parts=flags"]) == 0
    assert "help: a → b" in capsys.readouterr().out
    monkeypatch.setitem(program.PARTS, "flags", lambda pair: iter([*found, Row("flags", "lr", "different")]))
    assert program.main([str(tmp_path), str(tmp_path), "--parts=flags"]) == 1
    monkeypatch.setitem(program.PARTS, "flags", broken)
    assert program.main([str(tmp_path), str(tmp_path), "--parts=flags"]) == 1
    assert "it ended with 1" in capsys.readouterr().out


def test_the_figures_of_a_call() -> None:
    figures = row("op | forward | default", [1e-6, 2e-6, 3e-6], [2e-6, 2e-6, 9e-6], [], ["op"])
    assert (figures["old_microseconds"], figures["new_microseconds"], figures["ratio"]) == pytest.approx((2, 2, 1))
    assert figures["ratio_of_a_turn"]["median"] == pytest.approx(2)
    assert cells(figures)[:6] == ("op", "forward", "default", "2.0", "2.0", "1.000")
