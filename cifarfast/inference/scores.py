"""Every score of a set of logits: the one place where evaluations and reports get their numbers from.

With probabilities p = softmax(logits) in float64 and the prediction argmax_c logits (the first of equals):

* loss: mean of −ln p[label]; top-5: at most four classes have a higher logit than the label;
* per class, one against the rest: precision, recall, F1, area under the ROC curve, average precision
  Σ (R_n − R_{n−1}) P_n;
* macro: the mean over the classes that have samples;
* expected calibration error: Σ_b |bin b| / N · |accuracy_b − mean confidence_b| over 15 bins of equal width in (0, 1].

Everything but the calibration error comes from scikit-learn or equals it to rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support, roc_auc_score

from ..runs.predictions import check_predictions

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class against the rest, in 0…1; areas are None where the class has no samples (ROC: or all)."""

    name: str
    support: int
    precision: float
    recall: float
    f1: float
    roc_auc: float | None
    average_precision: float | None


@dataclass(frozen=True)
class PredictionScores:
    """Scores of predictions. Accuracies in percent, the loss in nats, everything else in 0…1.

    ``confusion`` is int64 [C, C]: row = label, column = prediction.
    """

    images: int
    accuracy_percent: float
    top5_percent: float
    loss: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    macro_roc_auc: float | None
    macro_average_precision: float | None
    expected_calibration_error: float
    per_class: tuple[ClassScores, ...]
    confusion: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """The same as plain values for JSON."""
        values = {key: value for key, value in vars(self).items() if key not in ("per_class", "confusion")}
        per_class = [dict(vars(row)) for row in self.per_class]
        return values | {"per_class": per_class, "confusion_matrix": self.confusion.tolist()}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """ln softmax of logits [N, C], in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def sample_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each sample, float64 [N], from logits [N, C] and labels [N]."""
    return -log_softmax(logits)[np.arange(len(labels)), labels]


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int = CALIBRATION_BINS) -> np.ndarray:
    """Reliability table float64 [bins, 3]: samples, mean confidence, accuracy of each bin (NaN where it is empty).

    The confidence is the highest probability; bin b holds confidences in (b / bins, (b + 1) / bins].
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(bin_of, minlength=bins).astype(np.float64)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(bin_of, weights, minlength=bins) / count for weights in (confidence, right)]
    return np.stack([count, *means], axis=1)


def expected_calibration_error(table: np.ndarray) -> float:
    """Expected calibration error of a ``calibration`` table."""
    count, confidence, accuracy = table[table[:, 0] > 0].T
    return float((count * np.abs(accuracy - confidence)).sum() / count.sum())


def score_predictions(logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> PredictionScores:
    """Score float logits [N, C] against labels int [N] of the classes named.

    Raises:
        UserError: the shapes, labels or number of classes do not fit together, or a logit is not finite.
    """
    check_predictions(logits, labels, len(classes))
    num_classes = len(classes)
    log_p = log_softmax(logits)
    p = np.exp(log_p)
    predicted = logits.argmax(axis=1)
    own = logits[np.arange(len(labels)), labels]
    numbers = np.arange(num_classes)
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, labels=numbers, zero_division=0)
    rows = [
        ClassScores(
            name=str(classes[c]),
            support=int(support[c]),
            precision=float(precision[c]),
            recall=float(recall[c]),
            f1=float(f1[c]),
            roc_auc=float(roc_auc_score(labels == c, p[:, c])) if 0 < support[c] < len(labels) else None,
            average_precision=float(average_precision_score(labels == c, p[:, c])) if support[c] else None,
        )
        for c in range(num_classes)
    ]
    present = [row for row in rows if row.support]
    return PredictionScores(
        images=len(labels),
        accuracy_percent=100 * int((predicted == labels).sum()) / len(labels),
        top5_percent=100 * int(((logits > own[:, None]).sum(axis=1) < 5).sum()) / len(labels),
        loss=float(-log_p[np.arange(len(labels)), labels].mean()),
        macro_precision=_mean(row.precision for row in present),
        macro_recall=_mean(row.recall for row in present),
        macro_f1=_mean(row.f1 for row in present),
        macro_roc_auc=_mean_or_none(row.roc_auc for row in present),
        macro_average_precision=_mean_or_none(row.average_precision for row in present),
        expected_calibration_error=expected_calibration_error(calibration(p, labels)),
        per_class=tuple(rows),
        confusion=confusion_matrix(labels, predicted, labels=numbers),
    )


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _mean_or_none(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
