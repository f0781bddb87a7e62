"""Where data files are looked for, how they are downloaded, and the one line that says how to get them by hand."""

import contextlib
import hashlib
import http.client
import os
import shutil
import socket
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError
from ..runtime.files import user_path

_TIMEOUT_SECONDS = 30.0


def data_folder(data_dir: str | Path | None) -> Path:
    """``data_dir``, else the environment variable CIFARFAST_DATA, else ``./data``."""
    return user_path(data_dir or os.environ.get("CIFARFAST_DATA") or "data")


def missing(title: str, expected: Path, url: str, reason: str) -> UserError:
    """The error for data that is not there: where it is expected, how to get it by hand, what works without it."""
    return UserError(
        f"{title} is not at {expected} and {reason}: get {url} and unpack it there, point --data-dir at a copy, "
        "or try --dataset digits, which needs no download"
    )


@contextlib.contextmanager
def _timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def download(title: str, url: str, md5: str, expected: Path, *, member: str | None = None) -> None:
    """Download ``url`` through torchvision, check its md5, and put it (or the unpacked ``member``) at ``expected``.

    Everything happens in a temporary folder beside ``expected`` that is renamed at the end, so an interrupted download
    leaves no half of a data set behind.

    Raises:
        UserError: no network, a wrong checksum, or a folder that cannot be written.
    """
    from torchvision.datasets.utils import download_and_extract_archive, download_url

    try:
        expected.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".download-", dir=expected.parent))
    except OSError as error:
        raise missing(title, expected, url, f"nothing can be written there ({_one_line(error)})") from None
    try:
        # torchvision reports on stdout, which belongs to the results
        with _timeout(), contextlib.redirect_stdout(None):
            fetch = download_url if member is None else download_and_extract_archive
            fetch(url, str(folder), filename=Path(url).name, md5=md5)
        got = folder / (Path(url).name if member is None else member)
        if not expected.exists():  # another process may have been faster
            got.replace(expected)
    except (OSError, http.client.HTTPException, RuntimeError) as error:  # urllib's and torchvision's errors
        raise missing(title, expected, url, f"the download failed ({_one_line(error)})") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unpack(archive: Path, md5: str, expected: Path) -> None:
    """Put the folder ``expected.name`` of a .tar.gz archive at ``expected``, whole or not at all.

    Raises:
        UserError: the archive has another checksum, cannot be read, or the folder cannot be written.
    """
    try:
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != md5:
            raise UserError(
                f"{archive} has the md5 {found}, the published archive {md5}: get it again, or unpack it there yourself"
            )
        with tempfile.TemporaryDirectory(prefix=".unpack-", dir=expected.parent) as folder:
            with tarfile.open(archive) as packed:
                packed.extractall(folder, filter="data")
            if not expected.exists():  # another process may have been faster
                (Path(folder) / expected.name).replace(expected)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"cannot unpack {archive} to {expected}: {_one_line(error)}; check the disk") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
