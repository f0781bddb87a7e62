"""Scores of a committed prediction file against scikit-learn, and of odd ones against brute force."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics

from cifarfast.errors import UserError
from cifarfast.inference.scores import calibration, expected_calibration_error, log_softmax, score_predictions

FILE = Path(__file__).parents[1] / "report" / "predictions.npz"  # 250 images of a LeNet-5
NAMES = tuple("abcdefghij")


@pytest.fixture(scope="module")
def predictions() -> tuple[np.ndarray, np.ndarray]:
    with np.load(FILE) as arrays:
        return arrays["logits"], arrays["labels"]


def test_every_number_is_scikit_learns(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = predictions
    p = np.exp(log_softmax(logits))
    guess = logits.argmax(1)
    scores = score_predictions(logits, labels, NAMES)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(labels, guess)
    expected = {
        "accuracy_percent": 100 * metrics.accuracy_score(labels, guess),
        "top5_percent": 100 * metrics.top_k_accuracy_score(labels, logits, k=5),
        "loss": metrics.log_loss(labels, p),
        "macro_precision": metrics.precision_score(labels, guess, average="macro"),
        "macro_recall": metrics.recall_score(labels, guess, average="macro"),
        "macro_f1": metrics.f1_score(labels, guess, average="macro"),
        "macro_roc_auc": metrics.roc_auc_score(labels, p, multi_class="ovr"),
        "macro_average_precision": metrics.average_precision_score(np.eye(10)[labels], p),
    }
    for name, value in expected.items():
        assert getattr(scores, name) == pytest.approx(value, abs=1e-6), name
    for c, row in enumerate(scores.per_class):
        assert (row.name, row.support) == (NAMES[c], support[c])
        assert (row.precision, row.recall, row.f1) == pytest.approx((precision[c], recall[c], f1[c]), abs=1e-6)
        assert row.roc_auc == pytest.approx(metrics.roc_auc_score(labels == c, p[:, c]), abs=1e-6)
        assert row.average_precision == pytest.approx(metrics.average_precision_score(labels == c, p[:, c]), abs=1e-6)
    assert (scores.confusion == metrics.confusion_matrix(labels, guess)).all()
    assert json.loads(json.dumps(scores.to_json()))["confusion_matrix"] == scores.confusion.tolist()


def test_calibration_error_by_brute_force(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = predictions
    p = np.exp(log_softmax(logits))
    total = 0.0
    for b in range(15):
        inside = [i for i in range(len(p)) if b / 15 < p[i].max() <= (b + 1) / 15]
        if inside:
            right = sum(p[i].argmax() == labels[i] for i in inside) / len(inside)
            total += len(inside) / len(p) * abs(right - sum(p[i].max() for i in inside) / len(inside))
    assert expected_calibration_error(calibration(p, labels)) == pytest.approx(total, abs=1e-12)


def test_a_calibration_bin_holds_its_upper_edge() -> None:
    table = calibration(np.array([[0.5, 0.5], [0.75, 0.25], [0.0, 1.0]]), np.array([0, 0, 0]), bins=4)
    assert table[:, 0].tolist() == [0, 1, 1, 1]
    assert table[1:].tolist() == [[1, 0.5, 1], [1, 0.75, 1], [1, 1, 0]]


def test_a_class_without_samples_does_not_count() -> None:
    logits = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0], [1.0, 0.5, 0.0]])
    scores = score_predictions(logits, np.array([0, 1, 0]), "abc")
    assert scores.per_class[2].roc_auc is None
    assert scores.macro_recall == pytest.approx(0.5)
    assert scores.top5_percent == 100
    one = score_predictions(logits[:1], np.array([0]), "abc")
    assert one.macro_roc_auc is None
    assert one.accuracy_percent == 100


def test_large_logits_do_not_overflow() -> None:
    scores = score_predictions(np.array([[1e4, -1e4], [1e4, -1e4]], np.float32), np.array([0, 1]), "ab")
    assert scores.loss == pytest.approx(1e4)


@pytest.mark.parametrize(
    ("logits", "labels", "part"),
    [
        (np.zeros((2, 3)), np.zeros(3, int), "must be"),
        (np.zeros((0, 3)), np.zeros(0, int), "N ≥ 1"),
        (np.zeros((2, 1)), np.zeros(2, int), "classes"),
        (np.zeros((2, 4)), np.zeros(2, int), "4 classes"),
        (np.zeros((2, 3)), np.array([0, 3]), "0…2"),
        (np.zeros((2, 3)), np.array([0.0, 1.0]), "whole numbers"),
        (np.full((2, 3), np.nan), np.zeros(2, int), "not finite"),
    ],
)
def test_what_does_not_fit_is_one_line(logits: np.ndarray, labels: np.ndarray, part: str) -> None:
    with pytest.raises(UserError, match=part):
        score_predictions(logits, labels, "abc")
