"""The one way in which files are written: whole or absent, never through a link; locks; disk errors as one line.

A folder may come from somebody else, with links in it that carry the names we write. So a file is opened under a name
that cannot be foreseen, with O_EXCL and O_NOFOLLOW, and renamed, which replaces a link and not what it names.
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
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
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


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


def write_new(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, which must not exist, not even as a link, and fsync it. Not atomic.

    Raises:
        FileExistsError: something of that name is there.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that nobody can foresee: ``.<name>.<16 hexadecimal digits>.tmp``."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def remove_temporaries(folder: Path) -> None:
    """Remove what processes left in ``folder`` that were killed while they wrote; call it under the folder's lock."""
    for entry in folder.iterdir():
        if _TEMPORARY.fullmatch(entry.name):
            remove_tree(entry)


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it, or a file, or a link but not what it names."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace ``path`` by ``data``: after a crash at any moment it holds the old bytes or the new ones, whole.

    A link at ``path`` is replaced, and what it names stays.
    """
    temporary = temporary_name(path)
    try:
        write_new(temporary, data.encode() if isinstance(data, str) else data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``folder``; the operating system releases it however the process ends.

    The file ``.lock`` is made where it is missing and never written to.

    Raises:
        UserError: another process holds it, or ``.lock`` is a link or no file.
    """
    path = folder / ".lock"
    with contextlib.ExitStack() as stack:
        with disk_errors(f"lock {folder}"):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            try:
                handle = os.open(path, flags, 0o666)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                    raise UserError(f"cannot lock {folder}: {path} is a link or no file: remove it") from None
                raise
            stack.callback(os.close, handle)
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UserError(f"cannot lock {folder}: {path} is a link or no file: remove it")
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another process is training in {folder}: wait, or choose another --out") from None
        yield
