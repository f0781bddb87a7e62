"""Scores as text for the terminal."""

from collections.abc import Sequence

from ..runtime.console import printable
from .scores import PredictionScores

NAME_WIDTH = 24  # of a class; a longer name is cut
_COLUMN_WIDTH = 12  # of a class in the header of a confusion matrix
MATRIX_CLASSES = 20  # a larger confusion matrix does not fit on a terminal; --json has it


def score_table(scores: PredictionScores) -> str:
    """Overall scores, a row for each class, and the confusion matrix of up to 20 classes."""
    macro = (
        f"macro precision {scores.macro_precision:.4f}, recall {scores.macro_recall:.4f}, F1 {scores.macro_f1:.4f}, "
        f"ROC-AUC {_number(scores.macro_roc_auc)}, average precision {_number(scores.macro_average_precision)}"
    )
    header = ("class", "images", "precision", "recall", "F1", "ROC-AUC", "avg precision", "most often taken for")
    rows = [
        (
            printable(row.name, NAME_WIDTH),
            f"{row.support:,}",
            *(_number(value) for value in (row.precision, row.recall, row.f1, row.roc_auc, row.average_precision)),
            _taken_for(scores, number),
        )
        for number, row in enumerate(scores.per_class)
    ]
    calibration = f"expected calibration error {scores.expected_calibration_error:.4f}"
    parts = [f"{macro}\n{calibration}", aligned([header, *rows], left=(0, 7))]
    if len(scores.per_class) <= MATRIX_CLASSES:
        names = [printable(row.name) for row in scores.per_class]
        matrix = [
            (printable(row.name, NAME_WIDTH), *map(str, counts))
            for row, counts in zip(scores.per_class, scores.confusion.tolist(), strict=True)
        ]
        short = [printable(name, _COLUMN_WIDTH) if len(names) <= 10 else name[:5] for name in names]
        title = "confusion matrix, a row for each label, a column for each prediction"
        parts.append(f"{title}\n{aligned([('', *short), *matrix], left=(0,))}")
    return "\n\n".join(parts)


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> str:
    """Rows of cells as text with columns of equal width, right-aligned but for those in ``left``."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [f"{c:<{w}}" if i in left else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _taken_for(scores: PredictionScores, label: int) -> str:
    counts = scores.confusion[label].copy()
    counts[label] = 0
    if not counts.any():
        return ""
    return f"{printable(scores.per_class[int(counts.argmax())].name, NAME_WIDTH)} ({counts.max():,})"
