"""Likely label errors by confident learning, from predictions for images that were not trained on.

After C. Northcutt, L. Jiang, I. Chuang, "Confident learning: estimating uncertainty in dataset labels" (JAIR 2021).
"""

import numpy as np


def rank_label_errors(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Positions of samples whose label is likely wrong, the likeliest first.

    With t_j the mean p_j over the samples labelled j, a sample is confidently in class j where p_j ≥ t_j, and of
    several such classes in the likeliest. A sample that is confidently in another class than its label counts as a
    likely error; they are ordered by p_label − max over the other classes, ascending.

    Args:
        probabilities: out-of-sample, float [N, C].
        labels: int [N].

    Returns:
        int64 [M], M ≤ N.
    """
    count, classes = probabilities.shape
    sums = np.zeros(classes)
    np.add.at(sums, labels, probabilities[np.arange(count), labels])
    support = np.bincount(labels, minlength=classes)
    thresholds = np.where(support > 0, sums / np.maximum(support, 1), np.inf)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    found = (confident.max(axis=1) >= 0) & (confident.argmax(axis=1) != labels)
    own = probabilities[np.arange(count), labels]
    others = probabilities.copy()
    others[np.arange(count), labels] = -1.0
    margin = own - others.max(axis=1)
    candidates = np.flatnonzero(found & (margin < 0))
    return candidates[np.argsort(margin[candidates], kind="stable")]
