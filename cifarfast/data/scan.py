"""The one search for images in folders: of `folder:` data sets and of predict. What it does not use, it counts."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .image_files import image_suffixes, is_image


@dataclass
class Found:
    """The images of a folder, by path, and how many other files there are of each kind (``.heic``, ``hidden``, …)."""

    images: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def left_out_line(left_out: Counter[str]) -> str:
    """``left out 40 files: .heic 20, .jp2 20``; empty where nothing was."""
    total = left_out.total()
    if not total:
        return ""
    ordered = sorted((+left_out).items(), key=lambda kind: (-kind[1], kind[0]))
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in ordered)
    return f"left out {total:,} file{'s' if total > 1 else ''}: {kinds}"


def scan(folder: Path) -> Found:
    """The images in a folder and the folders below it, links to folders followed, in the order of their paths' parts.

    A file is an image by its suffix, or without one by its content. A folder that is reached a second time, hidden
    entries, and what is no regular file are left out; of a hidden folder the entry counts, not what is in it.

    Raises:
        OSError: a folder cannot be listed.
    """
    found = Found()
    for path, reason in _walk(folder):
        if reason:
            found.left_out[reason] += 1
        else:
            found.images.append(path)
    return found


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file, and why it is no image to use; empty where it is one."""
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        if path != folder and path.name.startswith("."):
            yield path, "hidden"
            continue
        try:
            status = path.stat()
        except OSError:
            if path == folder:
                raise
            yield path, "broken link"
            continue
        if stat.S_ISDIR(status.st_mode):
            if (status.st_dev, status.st_ino) in seen:
                yield path, "link to a folder that is used already"
            else:
                seen.add((status.st_dev, status.st_ino))
                waiting += sorted(entries(path), key=lambda entry: entry.name, reverse=True)
        else:
            yield path, kind_of(path, status.st_mode)


def kind_of(path: Path, mode: int) -> str:
    """Why a file is not used as an image: its suffix, or what it is; empty where it is used."""
    if not stat.S_ISREG(mode):
        return "not a regular file"
    suffix = path.suffix.lower()
    if suffix:
        return "" if suffix in image_suffixes() else suffix
    return "" if is_image(path) else "no suffix"


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, in any order."""
    with os.scandir(folder) as found:
        return [folder / entry.name for entry in found]
