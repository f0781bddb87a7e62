"""`folder:DIR`: images in class folders."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError, nearest
from .files import PARTS, Listed, Listing, class_name
from .image_files import image_suffixes
from .scan import entries, kind_of, left_out_line, scan


def list_folder(folder: Path) -> Listed:
    """The images in class folders, by class and path; a class's images may lie in folders below its own.

    With ``DIR/train/CLASS/*`` the test part is ``DIR/test``; where there is none, ``DIR/val``. With both, ``DIR/val``
    is the validation part. ``train``, ``test`` and ``val`` are parts only with class folders inside: with images
    directly inside they are classes. With ``DIR/CLASS/*`` alone, 20 % of every class become the test part by the fixed
    rule of `hold_out_test` over the files in the order of class and path. Classes are the folders' names, sorted.
    Whatever is not used is counted in a note. Every image must be readable.

    Raises:
        UserError: no such folder, fewer than two classes, a class without images or unknown to the training part, or
            parts that could also be classes.
    """
    if not folder.is_dir():
        raise UserError(f"folder:{folder}: there is no such folder; write folder:DIR with DIR/CLASS/*.png in it")
    try:
        roots = _roots(folder)
        root = roots.get("train", folder)
        names = _class_folders(root)
        if len(names) < 2:
            found = f"only {next(iter(names))!r}" if names else "none"
            raise UserError(f"{root} needs a folder for each of at least two classes, it has {found}")
        left_out: Counter[str] = Counter()
        classes = tuple(names)
        parts = {part: _list_part(root, classes, left_out) for part, root in roots.items()}
        if "train" in roots:
            _count_others(folder, [*roots.values()], "outside train/, test/ and val/", left_out)
    except OSError as error:
        raise UserError(f"cannot list {error.filename}: {error.strerror}; check its permissions") from None
    line = left_out_line(left_out)
    return Listed(parts, classes, (f"{folder}: {line}",) if line else ())


def _roots(folder: Path) -> dict[str, Path]:
    """The folder of each part, or the whole as ``all`` where train/, test/ and val/ are classes or absent."""
    holds = {part: _holds(folder / part) for part in PARTS if (folder / part).is_dir()}
    parts = {part: folder / part for part, (folders, _) in holds.items() if folders}
    for part, (folders, images) in holds.items():
        if folders and images:
            raise UserError(
                f"{folder / part} has folders and images side by side: as a part of the data it must have class "
                "folders alone, as a class images alone; move one or the other"
            )
    if "train" in parts:
        if len(parts) > 1:
            return parts
        flat = [part for part in holds if part != "train"]
        if flat:
            raise UserError(f"{folder / flat[0]} has no class folders; it needs the ones of the training part")
        raise UserError(f"{folder} has train/ but no test/ or val/ beside it; add one, or use folder:{folder}/train")
    if parts and set(_class_folders(folder)) <= set(PARTS):
        has = next(iter(parts))
        raise UserError(f"{folder} has {has}/ with class folders, but no train/ with class folders; add it")
    return {"all": folder}


def _holds(folder: Path) -> tuple[bool, bool]:
    """Whether a folder has folders, and images directly inside."""
    folders = images = False
    for entry in entries(folder):
        if not entry.name.startswith("."):
            if entry.is_dir():
                folders = True
            elif entry.is_file() and not kind_of(entry, entry.stat().st_mode):
                images = True
            if folders and images:
                break
    return folders, images


def _class_folders(root: Path) -> dict[str, list[Path]]:
    """Every class and its folders: more than one where their names are equal in NFC."""
    found: dict[str, list[Path]] = {}
    for entry in sorted(entries(root), key=lambda entry: entry.name):
        if not entry.name.startswith(".") and entry.is_dir():
            found.setdefault(class_name(entry.name), []).append(entry)
    return dict(sorted(found.items()))


def _list_part(root: Path, classes: Sequence[str], left_out: Counter[str]) -> Listing:
    """The image files of one part, by class and path; counts the others."""
    listing = Listing()
    folders = _class_folders(root)
    for name, places in folders.items():
        if name not in classes:
            raise UserError(f"{places[0]} is a class that the training part lacks{nearest(name, classes)}; rename it")
        found = [scan(place) for place in places]
        images = [path for each in found for path in each.images]
        others = sum((each.left_out for each in found), Counter())
        if not images:
            line = left_out_line(others)
            reason = f"{places[0]} has no images ({', '.join(image_suffixes())})"
            raise UserError(f"{reason}{f'; {line}' if line else ''}; add some or remove the folder")
        left_out.update(others)
        listing.paths += images
        listing.labels += [classes.index(name)] * len(images)
    _count_others(root, [place for places in folders.values() for place in places], "outside class folders", left_out)
    if not listing.paths:
        raise UserError(f"{root} has no class folders; it needs the ones of the training part")
    return listing


def _count_others(root: Path, used: Sequence[Path], reason: str, left_out: Counter[str]) -> None:
    """Count the files below ``root`` that lie in no used folder."""
    passed = set(used)
    for entry in entries(root):
        if entry in passed:
            continue
        if entry.name.startswith("."):
            left_out["hidden"] += 1
        elif entry.is_dir():
            found = scan(entry)
            left_out[reason] += len(found.images) + found.left_out.total()
        else:
            left_out[reason] += 1
