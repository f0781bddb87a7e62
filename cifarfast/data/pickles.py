"""A reader for the pickles CIFAR comes as. It is a small interpreter of its own: it imports nothing by name, calls
nothing a file asks for, and knows only the opcodes and the four names that such files need.

What a file can build is dicts, lists, tuples, numbers, strings, None and plain integer arrays. Names that stand for
numpy's functions are tokens; the interpreter recognises the few token patterns numpy writes for an array and refuses
anything else. References through the memo share one object, nothing is copied or traversed, and the number of steps is
bounded, so a small file cannot grow into a large one.
"""

from collections.abc import Callable
from enum import Enum, auto
from pickletools import opcodes
from typing import Any

from ..errors import UserError
from .pickled_arrays import (
    INTEGER_TYPES,
    PickledArray,
    PickledDType,
    Refused,
    fill_array,
    set_byte_order,
    text_of,
)

_LONGEST_KEY = 256
_MAX_STEPS = 4_000_000  # CIFAR-100's training file, the longest there is, takes about 300,000


class _Name(Enum):
    RECONSTRUCT = auto()
    NDARRAY = auto()
    DTYPE = auto()
    ENCODE = auto()


_ALLOWED_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _Name.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _Name.RECONSTRUCT,
    ("numpy", "ndarray"): _Name.NDARRAY,
    ("numpy", "dtype"): _Name.DTYPE,
    ("_codecs", "encode"): _Name.ENCODE,
}


class _Mark:
    """Where an open tuple, list or dict begins on the stack."""


def _opcode_name(code: bytes) -> str:
    return next((opcode.name for opcode in opcodes if opcode.code == code.decode("latin1")), repr(code))


class _Interpreter:
    """Runs the opcodes of one pickle. ``stack`` and ``memo`` are the pickle machine's."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.encoded = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(_MAX_STEPS):
            code = self.take(1)
            if code == b".":
                return self.pop()
            if code in _VALUES:
                self.stack.append(_VALUES[code](self))
            elif code in _ACTIONS:
                _ACTIONS[code](self)
            else:
                raise Refused(f"it uses the pickle instruction {_opcode_name(code)}")
        raise Refused(f"it has more than {_MAX_STEPS:,} pickle instructions")

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            raise Refused("it is truncated")
        self.at += count
        return self.data[self.at - count : self.at]

    def uint(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def sint(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little", signed=True)

    def long(self) -> int:
        width = self.uint(1)
        if width > 8:
            raise Refused("it has an integer of more than 64 bits")
        return self.sint(width)

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 256)
        if end < 0:
            raise Refused("it is truncated")
        return self.take(end - self.at + 1)[:-1].decode("latin1")

    def pop(self) -> Any:
        if not self.stack or isinstance(self.stack[-1], _Mark):
            raise Refused("its instructions do not fit together")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        for start in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[start], _Mark):
                items = self.stack[start + 1 :]
                del self.stack[start:]
                return items
        raise Refused("its instructions do not fit together")

    def pop_tuple(self, count: int) -> tuple[Any, ...]:
        return tuple(reversed([self.pop() for _ in range(count)]))

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise Refused("its instructions do not fit together")
        return self.stack[-1]

    def extend(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        if len(items) % 2:
            raise Refused("its instructions do not fit together")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | bytes):
                raise Refused(f"it has a {type(key).__name__} as the key of a dict")
            if len(key) > _LONGEST_KEY:  # each use of it would be another copy
                raise Refused(f"it has a key of {len(key):,} characters")
            name = text_of(key)
            assert name is not None
            target[name] = value

    def remember(self, index: int) -> None:
        self.memo[index] = self.pop()
        self.stack.append(self.memo[index])

    def recall(self, index: int) -> Any:
        if index not in self.memo:
            raise Refused("its instructions do not fit together")
        return self.memo[index]

    def protocol(self) -> None:
        version = self.uint(1)
        if version > 5:
            raise Refused(f"it is written in pickle protocol {version}")

    def name(self, module: Any, attribute: Any) -> _Name:
        # a lookup in a table of exact pairs: nothing is imported, and a dotted name is just another unknown name
        known = isinstance(module, str) and isinstance(attribute, str)
        token = _ALLOWED_NAMES.get((module, attribute)) if known else None
        if token is None:
            raise Refused(f"it asks for {f'{module}.{attribute}'[:80]!r}")
        return token

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(arguments, tuple) or not isinstance(function, _Name):
            raise Refused("it calls something that is not a function")
        if function is _Name.RECONSTRUCT and len(arguments) == 3 and arguments[0] is _Name.NDARRAY:
            self.stack.append(PickledArray())
        elif function is _Name.DTYPE and arguments and text_of(arguments[0]) in INTEGER_TYPES:
            self.stack.append(PickledDType(str(text_of(arguments[0]))))
        elif function is _Name.ENCODE and len(arguments) == 2 and isinstance(arguments[0], str):
            self.stack.append(self.encode(*arguments))
        else:
            raise Refused(f"it calls {function.name.lower()} with arguments that no CIFAR file has")

    def encode(self, text: str, encoding: Any) -> bytes:
        """Python 3's way to write bytes in protocol 2: ``_codecs.encode(text, 'latin1')``."""
        if text_of(encoding) not in ("latin1", "latin-1"):
            raise Refused("it uses an encoding other than latin1")
        self.encoded += len(text)
        if self.encoded > len(self.data):
            raise Refused("it encodes the same text again and again")
        try:
            return text.encode("latin1")
        except UnicodeEncodeError as error:
            raise Refused("it has bytes that are none") from error

    def build(self) -> None:
        state = self.pop()
        target = self.pop()
        if isinstance(target, PickledDType):
            set_byte_order(target, state)
        elif isinstance(target, PickledArray):
            target.value = fill_array(state)
        else:
            raise Refused(f"it sets the state of a {type(target).__name__}")
        self.stack.append(target)


_VALUES: dict[bytes, Callable[[_Interpreter], Any]] = {
    b"K": lambda p: p.uint(1),
    b"U": lambda p: p.take(p.uint(1)),
    b"h": lambda p: p.recall(p.uint(1)),
    b"j": lambda p: p.recall(p.uint(4)),
    b"M": lambda p: p.uint(2),
    b"J": lambda p: p.sint(4),
    b"\x8a": lambda p: p.long(),
    b"T": lambda p: p.take(p.sint(4)),
    b"C": lambda p: p.take(p.uint(1)),
    b"B": lambda p: p.take(p.uint(4)),
    b"\x8e": lambda p: p.take(p.uint(8)),
    b"\x8c": lambda p: p.take(p.uint(1)).decode("utf-8", "surrogatepass"),
    b"X": lambda p: p.take(p.uint(4)).decode("utf-8", "surrogatepass"),
    b"N": lambda p: None,
    b"\x88": lambda p: True,
    b"\x89": lambda p: False,
    b"(": lambda p: _Mark(),
    b"]": lambda p: [],
    b"}": lambda p: {},
    b")": lambda p: (),
    b"t": lambda p: tuple(p.pop_mark()),
    b"\x85": lambda p: p.pop_tuple(1),
    b"\x86": lambda p: p.pop_tuple(2),
    b"\x87": lambda p: p.pop_tuple(3),
    b"c": lambda p: p.name(p.line(), p.line()),
    b"\x93": lambda p: p.name(*p.pop_tuple(2)),
}
_ACTIONS: dict[bytes, Callable[[_Interpreter], None]] = {
    b"q": lambda p: p.remember(p.uint(1)),
    b"r": lambda p: p.remember(p.uint(4)),
    b"\x94": lambda p: p.remember(len(p.memo)),
    b"e": lambda p: p.extend(p.pop_mark()),
    b"a": lambda p: p.extend([p.pop()]),
    b"u": lambda p: p.set_items(p.pop_mark()),
    b"s": lambda p: p.set_items(list(p.pop_tuple(2))),
    b"R": lambda p: p.reduce(),
    b"b": lambda p: p.build(),
    b"\x80": lambda p: p.protocol(),
    b"\x95": lambda p: (p.uint(8), None)[1],
}


def load_pickle(data: bytes, source: str) -> dict[str, Any]:
    """The dict in a CIFAR pickle (protocols 2 to 4, written by Python 2 or 3), without running anything in it.

    Keys come back as ``str``, Python 2 strings and bytes as ``bytes``, arrays as read-only ``ndarray`` of integers.

    Args:
        data: the whole file.
        source: its name, for the error message.

    Raises:
        UserError: the file is truncated, or has anything in it that such a file does not need.
    """
    try:
        result = _Interpreter(data).run()
        if not isinstance(result, dict):
            raise Refused(f"it holds a {type(result).__name__}, not a dict")
    except (Refused, UnicodeDecodeError) as error:
        reason = "it has text that is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise UserError(f"{source} is not a CIFAR file: {reason}; nothing in it was run; get the data again") from None
    return {key: value.value if isinstance(value, PickledArray) else value for key, value in result.items()}
