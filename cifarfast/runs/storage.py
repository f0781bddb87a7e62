"""Files that are either whole or absent: atomic writes, folder locks, and disk errors as one line."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError

_EXPLAINED = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EFBIG: "the file is larger than the file-size limit allows: raise it",
    errno.EROFS: "the file system is read-only: choose another folder with --out",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.ENOTDIR: "a file stands where a folder should be: choose another folder with --out",
    errno.EEXIST: "a file stands where a folder should be: choose another folder with --out",
    errno.ENAMETOOLONG: "the name is too long",
}


@contextlib.contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turn an OSError inside into a UserError ``cannot <doing>: <what to do>``."""
    try:
        yield
    except OSError as error:
        reason = _EXPLAINED.get(error.errno or 0, error.strerror or str(error))
        raise UserError(f"cannot {doing}: {reason}") from error


def fsync_folder(folder: Path) -> None:
    """Make renames and new files in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durable(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` and fsync it. Not atomic: for files in a folder that is renamed later."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace ``path`` by ``data``: after a crash at any moment it holds the old bytes or the new ones, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write_durable(temporary, data.encode() if isinstance(data, str) else data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``folder``; the operating system releases it however the process ends.

    Raises:
        UserError: another process holds it.
    """
    with contextlib.ExitStack() as stack:
        with disk_errors(f"lock {folder}"):
            file = stack.enter_context((folder / ".lock").open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another process is training in {folder}: wait, or choose another --out") from None
        yield
