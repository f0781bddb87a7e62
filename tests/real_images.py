"""The fixture ``real_data``, for tests and benchmarks."""

import fcntl
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLACES = (ROOT.parent / "shared" / "data", ROOT / "shared" / "data", ROOT / ".data")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder with real images in the official layouts: cifar-10-batches-py (pixels through JPEG),
    cifar-10-exact-sample, EMNIST/raw. Unpacked once to .cache/data; treat it as read-only.
    """
    folder = unpacked()
    if folder is None:
        pytest.skip(f"needs the packed image data in one of {', '.join(map(str, PLACES))}")
    return folder


def unpacked() -> Path | None:
    """The folder of ``real_data``, None where the packed images are not there."""
    packed = next((place for place in PLACES if (place / "unpack.py").is_file()), None)
    if packed is None:
        return None
    target = ROOT / ".cache" / "data"
    target.parent.mkdir(exist_ok=True)
    with (target.parent / "data.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may start at once
        if not target.is_dir():
            folder = tempfile.mkdtemp(prefix="data-", dir=target.parent)
            try:
                subprocess.run(
                    [sys.executable, str(packed / "unpack.py"), folder], check=True, stdout=subprocess.DEVNULL
                )
                Path(folder).rename(target)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    return target
