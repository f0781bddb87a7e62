"""Files that a user names: what ``~`` in a path means, and reading within bounds."""

import contextlib
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from ..errors import UserError


def user_path(path: str | Path) -> Path:
    """The path with the home folder in place of a leading ``~``.

    Raises:
        UserError: it begins with ``~NAME`` and there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such user or home folder; write the path in full") from None


@contextlib.contextmanager
def open_regular(path: Path, limit: int) -> Iterator[BufferedReader]:
    """A regular file of at most ``limit`` bytes, open for reading.

    Raises:
        UserError: it is larger, or a pipe or device, which could be endless, or no file can have such a name.
        OSError: it cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb", opener=_open))
        except ValueError:  # a zero byte, or text that no file system takes
            raise UserError(f"{str(path)!r} is no name of a file") from None
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is not a regular file")
        if status.st_size > limit:
            raise UserError(f"{path} has {status.st_size:,} bytes; at most {limit:,} are read")
        yield file


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)  # opening a pipe does not wait for its writer


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most ``limit`` bytes; raises as ``open_regular`` does."""
    with open_regular(path, limit) as file:
        return file.read(limit)
