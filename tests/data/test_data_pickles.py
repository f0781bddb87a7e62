"""The CIFAR pickle reader: what it accepts, and that nothing in a hostile file is ever run."""

import contextlib
import io
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mistakes import refused

from cifarfast.data.pickles import load_pickle
from cifarfast.errors import UserError


def entry(n: int = 4) -> dict[str, Any]:
    pixels = np.arange(n * 3072, dtype=np.int64).astype(np.uint8).reshape(n, 3072)
    return {
        "batch_label": "training batch 1 of 5",
        "labels": list(range(n)),
        "data": pixels,
        "filenames": ["a.png"] * n,
    }


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reads_what_python_3_writes(protocol: int) -> None:
    expected = entry()
    got = load_pickle(pickle.dumps(expected, protocol), "batch")
    assert got.keys() == expected.keys()
    assert got["labels"] == expected["labels"]
    np.testing.assert_array_equal(got["data"], expected["data"])
    assert got["data"].dtype == np.uint8


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reads_integers_of_both_signs(protocol: int) -> None:
    numbers = {"labels": [-1, 255, -(2**31), 2**31 - 1, 2**40, -(2**63)]}
    assert load_pickle(pickle.dumps(numbers, protocol), "batch") == numbers


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reads_bytes_keys_and_plain_bytes(protocol: int) -> None:
    content = {b"data": bytes(range(256)) * 12, b"labels": [3], b"note": "ü"}
    assert load_pickle(pickle.dumps(content, protocol), "batch") == {k.decode(): v for k, v in content.items()}


@pytest.mark.parametrize("dtype", ["u1", "<i4", ">i4", "<i8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_array_types_and_orders(dtype: str, order: str) -> None:
    array = np.array([[1, 2, 3], [4, 5, 250]], dtype=dtype, order=order)  # type: ignore[call-overload]
    got = load_pickle(pickle.dumps({"a": array}, 4), "batch")["a"]
    np.testing.assert_array_equal(got, array)
    assert not got.flags.writeable


def test_python_2_pickle_with_memo() -> None:
    """The official files are Python 2's: byte strings, numpy.core names, BINPUT after every object."""
    data = (
        b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x06M\x01\x01eU\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05"
        b"cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x01K\x03\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87Rq"
        b"\t(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x03\x00\x00\x00\x00\xff\x07tbU\x05againh\x03u."
    )
    got = load_pickle(data, "batch")
    assert got["labels"] == got["again"] == [6, 257]
    np.testing.assert_array_equal(got["data"], [[0, 255, 7]])


class _Reduce:
    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def short(*texts: str) -> bytes:
    return b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in texts)


def _persistent(path: Path) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return "touch" if obj == "x" else None

    file = io.BytesIO()
    Pickler(file, 2).dump({"data": "x"})
    return file.getvalue()


def _code(path: Path) -> str:
    return f"open({str(path)!r}, 'w').close()"


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
DTYPE = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
ATTACKS: dict[str, Callable[[Path], bytes]] = {
    "os.system": lambda path: pickle.dumps({"data": _Reduce(os.system, (f"touch {path}",))}, 2),
    "os.system protocol 0": lambda path: pickle.dumps({"data": _Reduce(os.system, (f"touch {path}",))}, 0),
    "os.system protocol 4": lambda path: pickle.dumps({"data": _Reduce(os.system, (f"touch {path}",))}, 4),
    "eval": lambda path: pickle.dumps({"data": _Reduce(eval, (_code(path),))}, 2),
    "exec as a key": lambda path: pickle.dumps({_Reduce(exec, (_code(path),)): 1}, 4),
    "dotted name": lambda path: (
        b"\x80\x04}("
        + short("data", "numpy.core.multiarray", "os.system")
        + b"\x93"
        + short(f"touch {path}")
        + b"\x85Ru."
    ),
    "dotted name in GLOBAL": lambda path: b"\x80\x04}(U\x04datacnumpy\nndarray.__class__\nU\x01a\x85Ru.",
    "stack global of a non-string": lambda path: b"\x80\x04}(U\x04data]]\x93u.",
    "getattr": lambda path: b"\x80\x02}(U\x04datac__builtin__\ngetattr\ncos\nsystem\nU\x01x\x86Ru.",
    "INST": lambda path: b"}(U\x04data(S'touch " + str(path).encode() + b"'\nios\nsystem\nu.",
    "OBJ": lambda path: b"}(U\x04data(cos\nsystem\nS'touch " + str(path).encode() + b"'\nou.",
    "NEWOBJ": lambda path: b"\x80\x02}(U\x04datacnumpy\nndarray\nK\x09\x85\x85\x81u.",
    "persistent id": _persistent,
    "extension code": lambda path: b"\x80\x02}(U\x04data\x82\x01u.",
    "setstate on a function": lambda path: b"\x80\x02}(U\x04datacnumpy\nndarray\n}(U\x08__code__K\x01ubu.",
    "setstate on a dict": lambda path: b"\x80\x02}(U\x04data}}bu.",
    "object array": lambda path: pickle.dumps({"data": np.array([_Reduce(os.system, (f"touch {path}",))])}, 2),
    "object array without a payload": lambda path: pickle.dumps({"data": np.array([None, 1])}, 2),
    "structured array": lambda path: pickle.dumps({"data": np.zeros(2, [("a", "u1"), ("b", "i4")])}, 2),
    "object dtype through state": lambda path: (
        b"\x80\x02}(U\x04data" + DTYPE + b"(K\x03U\x01|U\x01aU\x01aNK\x01K\x01K\x3ftbu."
    ),
    "dtype of another kind": lambda path: b"\x80\x02}(U\x04datacnumpy\ndtype\nU\x02O8\x85Ru.",
    "reconstruct of a token": lambda path: (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85U\x01b\x87Ru."
    ),
    "ndarray called": lambda path: b"\x80\x02}(U\x04datacnumpy\nndarray\nJ\xff\xff\xff\x7f\x85\x85Ru.",
    "encode with another codec": lambda path: b"\x80\x02}(U\x04datac_codecs\nencode\nX\x01\x00\x00\x00aU\x03zip\x86Ru.",
    "result called": lambda path: b"\x80\x02}(U\x04data" + ARRAY + b")Ru.",
    "array larger than its bytes": lambda path: (
        b"\x80\x02}(U\x04data" + ARRAY + b"(K\x01J\xff\xff\xff\x7f\x85" + DTYPE + b"\x89U\x01atbu."
    ),
    "array of negative size": lambda path: (
        b"\x80\x02}(U\x04data" + ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + DTYPE + b"\x89U\x00tbu."
    ),
    "bytes longer than the file": lambda path: b"\x80\x02}(U\x04dataB\xff\xff\xff\xffau.",
    "negative length": lambda path: b"\x80\x02}(U\x04dataT\xff\xff\xff\xffau.",
    "huge integer": lambda path: b"\x80\x02}(U\x04data\x8a\xff" + b"\x7f" * 255 + b"u.",
    "unhashable key": lambda path: b"\x80\x02}(]K\x01u.",
    "odd items": lambda path: b"\x80\x02}(U\x04datau.",
    "no mark": lambda path: b"\x80\x02}u.",
    "pop of a mark": lambda path: b"\x80\x02(\x85.",
    "empty stack": lambda path: b"\x80\x02.",
    "unknown memo": lambda path: b"\x80\x02h\x07.",
    "unknown opcode": lambda path: b"\x80\x02\xff.",
    "future protocol": lambda path: b"\x80\x09}.",
    "not a dict": lambda path: pickle.dumps([1, 2], 2),
    "bad UTF-8": lambda path: b"\x80\x02}(U\x04dataX\x01\x00\x00\x00\xffu.",
    "empty file": lambda path: b"",
    "text": lambda path: b"<html>404</html>",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_refuses_and_runs_nothing(attack: str, tmp_path: Path) -> None:
    witness = tmp_path / "pwned"
    content = ATTACKS[attack](witness)
    with refused(match=r"^batch is not a CIFAR file: .*get the data again$"):
        load_pickle(content, "batch")
    assert not witness.exists()


def test_the_witness_shows_a_payload_that_runs(tmp_path: Path) -> None:
    """The attacks above are real: Python's own reader runs them."""
    witness = tmp_path / "pwned"
    pickle.loads(ATTACKS["os.system"](witness))
    assert witness.exists()


def test_names_what_a_hostile_file_asks_for() -> None:
    with pytest.raises(UserError, match=r"asks for '(posix|nt)\.system'"):
        load_pickle(ATTACKS["os.system"](Path("x")), "batch")


def test_small_file_cannot_grow() -> None:
    """Sharing through the memo costs nothing; encoding one text again and again is refused."""
    laughs = b"".join(b"](" + (b"h" + bytes([k])) * 10 + b"eq" + bytes([k + 1]) for k in range(60))
    got = load_pickle(b"\x80\x02}U\x04data](]q\x00" + laughs + b"es.", "batch")
    assert len(got["data"]) == 61
    text = b"X" + struct.pack("<I", 1000) + b"a" * 1000
    bomb = b"\x80\x02}(U\x04data](" + text + b"q\x01" + (b"c_codecs\nencode\nh\x01U\x06latin1\x86R" * 1000) + b"eu."
    with pytest.raises(UserError, match="again and again"):
        load_pickle(bomb, "batch")


def test_number_of_steps_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifarfast.data.pickles._MAX_STEPS", 10)
    with pytest.raises(UserError, match="more than 10 pickle instructions"):
        load_pickle(pickle.dumps(entry(), 2), "batch")


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
def test_truncation_anywhere_is_an_error(keep: float) -> None:
    content = pickle.dumps(entry(), 2)
    with pytest.raises(UserError, match=r"truncated|do not fit"):
        load_pickle(content[: int(len(content) * keep)], "batch")


def test_random_damage_never_escapes_as_another_error() -> None:
    content = bytearray(pickle.dumps({"labels": [1, 2, 3], "data": np.zeros((2, 3), np.uint8), "note": "abc"}, 2))
    generator = np.random.default_rng(0)
    for _ in range(3000):
        damaged = bytearray(content)
        for position in generator.integers(0, len(content), 2):
            damaged[position] = generator.integers(0, 256)
        with contextlib.suppress(UserError):
            load_pickle(bytes(damaged), "batch")
