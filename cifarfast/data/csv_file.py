"""`csv:FILE`: a table of the images' paths and labels."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import UserError
from ..runtime.files import open_regular
from .files import PARTS, Listed, Listing, class_name

_MAX_BYTES = 2**30


def list_csv(file: Path) -> Listed:
    """Images listed in a CSV file (UTF-8, header ``path,label`` or ``path,label,split``).

    Paths are relative to the file's folder. Classes are the labels, sorted as numbers when all are whole numbers, else
    as text; ``01`` and ``1`` are two classes. ``split`` is train, test or val; where there is no test row the val rows
    are the test part. Without that column 20 % of every class become the test part by the fixed rule of
    `hold_out_test` over the rows in their order.

    Raises:
        UserError: a missing or malformed file, a missing image, fewer than two classes, or a class without training
            rows.
    """
    rows = list(_read_rows(file))
    if not rows:
        raise UserError(f"{file} has no rows after its header; add path,label rows")
    labels = {label for _, label, _ in rows}
    whole = all(label.removeprefix("-").isdecimal() and len(label) < 19 for label in labels)
    classes = sorted(labels, key=(lambda label: (int(label), label)) if whole else None)
    if len(classes) < 2:
        raise UserError(f"{file} needs rows of at least two classes, it has {len(rows)} of {classes[0]!r}")
    number = {name: index for index, name in enumerate(classes)}
    parts: dict[str, Listing] = {}
    for path, label, part in rows:
        listing = parts.setdefault(part, Listing())
        listing.paths.append(path)
        listing.labels.append(number[label])
    if "all" not in parts:
        _check_parts(file, parts, classes)
    return Listed(parts, tuple(classes))


def _check_parts(file: Path, parts: dict[str, Listing], classes: Sequence[str]) -> None:
    """Raise `UserError` without training rows, without test and val rows, or for a class without training rows."""
    if "train" not in parts or len(parts) == 1:
        lacking = "test or val" if "train" in parts else "train"
        raise UserError(f"{file} has no row whose split is {lacking}; add some")
    absent = set(range(len(classes))) - set(parts["train"].labels)
    if absent:
        raise UserError(f"{file} has no train row of class {classes[min(absent)]!r}; add some, or drop the class")


def _read_rows(file: Path) -> Iterator[tuple[Path, str, str]]:
    """(path, label, part) of every row, each image's file being there; the part is ``"all"`` without a split column."""
    try:
        with (
            open_regular(file, _MAX_BYTES) as opened,
            io.TextIOWrapper(opened, encoding="utf-8-sig", newline="") as text,
        ):
            table = csv.reader(text, strict=True)
            header = [name.strip() for name in next(table, [])]
            if header[:2] != ["path", "label"] or header[2:] not in ([], ["split"]):
                found = ",".join(header)[:80]
                raise UserError(f"{file}: the first line is {found!r}, it must be path,label or path,label,split")
            for row in table:
                if row:
                    yield _parse_row(file, table.line_num, row, len(header))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; write csv:FILE with an existing file") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not a CSV file in UTF-8: {error}; save it as one") from None


def _parse_row(file: Path, line: int, row: list[str], columns: int) -> tuple[Path, str, str]:
    values = [value.strip() for value in row]
    if len(values) != columns or not values[0] or not values[1] or "\0" in values[0]:
        found = ",".join(values)[:80]
        raise UserError(f"{file} line {line}: expected {columns} values that are not empty, found {found!r}")
    path = file.parent / values[0]
    if not _is_file(path):
        raise UserError(
            f"{file} line {line}: there is no image {path}; correct the path (relative paths start at the CSV file's "
            "folder)"
        )
    if columns == 2:
        return path, class_name(values[1]), "all"
    if values[2] not in PARTS:
        raise UserError(f"{file} line {line}: split is {values[2]!r}, allowed is train, test or val")
    return path, class_name(values[1]), values[2]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False
