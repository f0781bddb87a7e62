"""What a command writes on a terminal or into a log: readable in every encoding, and no reason for it to end."""

import codecs
import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from typing import TextIO, cast

_SUBSTITUTES = str.maketrans(
    {
        **dict.fromkeys("│┃║", "|"),
        **dict.fromkeys("─━═–—−", "-"),
        **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼", "+"),
        **dict.fromkeys("█▉▊▋▌▍▎▏", "#"),
        **dict.fromkeys("“”", '"'),
        **dict.fromkeys("‘’", "'"),
        "·": ".",
        "…": "...",
        "±": "+/-",
        "≠": "!=",
        "≤": "<=",
        "≥": ">=",
        "×": "x",
        "→": "->",
    }
)
# all of C0 and C1, and the marks that reorder a line; a tab and a line's end only in names
_CONTROL = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069"
_IN_TEXT = re.compile(f"[{_CONTROL}]")
_IN_NAME = re.compile(rf"[{_CONTROL}\t\n\u2028\u2029]")
_NOT_STYLE = re.compile(rf"(?!\x1b\[[0-9;]*m)[{_CONTROL}]")


def _substitute(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_SUBSTITUTES)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


codecs.register_error("cifarfast.readable", _substitute)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def printable(name: str, width: int | None = None) -> str:
    """A name for a table: control characters as escapes, and at most ``width`` characters, the last then ``…``."""
    shown = _IN_NAME.sub(_escaped, name)
    return shown if width is None or len(shown) <= width else shown[: width - 1] + "…"


class Console(io.TextIOBase):
    """A text stream in front of another that writes what that one can take, and does not raise when it takes nothing.

    Characters that the encoding lacks are written as others (``│`` as ``|``) or as escapes. So are control characters,
    as they come from names only; a ``\\r`` at the beginning of a write is the progress bar's, and stays.

    Args:
        stream: the stream in front of which this one stands; None where the process was started without one.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.lost: Exception | None = None
        """Why text was lost, None when none was."""
        self.styled = False
        """Whether colours may pass."""

    def write(self, text: str) -> int:
        """Write what can be written."""
        if self.stream is not None:
            try:
                self.stream.write(self._shown(text))
            except (OSError, ValueError) as error:  # a ValueError: the stream is closed
                self.lost = error
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        if self.stream is not None:
            try:
                self.stream.flush()
            except (OSError, ValueError) as error:
                self.lost = error

    def _shown(self, text: str) -> str:
        start = text.startswith("\r")
        shown = text[:start] + (_NOT_STYLE if self.styled else _IN_TEXT).sub(_escaped, text[start:])
        return shown.encode(self.encoding, "cifarfast.readable").decode(self.encoding)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The other stream's, utf-8 where it has none."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether the other stream is a terminal."""
        try:
            return self.stream is not None and self.stream.isatty()
        except ValueError:
            return False

    def fileno(self) -> int:
        """The other stream's descriptor.

        Raises:
            OSError: it has none.
        """
        if self.stream is None:
            raise io.UnsupportedOperation("fileno")
        return self.stream.fileno()

    def writable(self) -> bool:
        """True."""
        return True

    def abandon(self) -> None:
        """Point the descriptor of a stream that has failed at nothing, so that the flush at exit does not fail too."""
        with contextlib.suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.fileno())
            os.close(nothing)


@contextlib.contextmanager
def console() -> Iterator[tuple[Console, Console]]:
    """Context in which ``sys.stdout`` and ``sys.stderr`` are Consoles; gives both. It may be entered again inside."""
    before = sys.stdout, sys.stderr
    out, err = (stream if isinstance(stream, Console) else Console(stream) for stream in before)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield out, err
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


@contextlib.contextmanager
def styles_allowed() -> Iterator[None]:
    """Context in which standard output may be coloured: for help, which has no names from files."""
    out = sys.stdout
    if not isinstance(out, Console):
        yield
        return
    out.styled = True
    try:
        yield
    finally:
        out.styled = False


def fill_standard_descriptors() -> None:
    """Open descriptors 0 to 2 on nothing where a shell closed them (``>&-``): else the next file gets that number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
