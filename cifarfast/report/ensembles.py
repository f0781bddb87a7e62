"""An ensemble in words: its members, what was fitted on what, and what came out."""

from typing import Any

from ..data.official import data_name
from ..ensembling import EnsembleRecord
from ..inference.score_table import aligned


def fit_words(record: EnsembleRecord) -> str:
    """What weights or perceptron were fitted on, as a sentence."""
    entry = record.result["ensemble"]
    what = "The perceptron was" if entry["method"] == "stack" else "The weights were"
    if entry["fit_on"] is None:
        return "Nothing was fitted: the weights were given." if entry["weighting"] == "given" else "Nothing was fitted."
    if record.optimistic:
        return f"{what} fitted on the test set itself ({entry['fit_images']:,} images)."
    folds = max(record.runs) > 1
    unseen = ", each as predicted by the run that had not seen it" if folds else " that no member had seen"
    return f"{what} fitted on {entry['fit_images']:,} training images{unseen} ({entry['held_out']})."


def method_words(record: EnsembleRecord) -> str:
    """How the members are combined."""
    entry = record.result["ensemble"]
    if entry["method"] == "stack":
        hidden = " and ".join(map(str, record.recipe.settings.hidden))
        return f"Stacking: a perceptron with hidden layers of {hidden} units on the members' logits."
    weights = {"equal": "equal weights", "given": "given weights", "search": "weights of the lowest loss"}
    return f"Soft voting with {weights[entry['weighting']]}."


def member_rows(record: EnsembleRecord) -> list[tuple[str, str, str, str]]:
    """Name, model, weight and test accuracy in percent of every member."""

    def row(member: dict[str, Any]) -> tuple[str, str, str, str]:
        weight = "–" if member["weight"] is None else f"{member['weight']:.4f}"
        return str(member["name"]), str(member["arch"]), weight, f"{member['test_accuracy_percent']:.2f}"

    return [row(member) for member in record.members]


def ensemble_text(record: EnsembleRecord) -> str:
    """An ensemble for the terminal."""
    result = record.result
    data = data_name(result)
    remark = f" ({record.optimistic})" if record.optimistic else ""
    accuracy = f"{result['ensemble']['equal_vote_accuracy_percent']:.2f} %"
    equal = [f"test accuracy of equal votes {accuracy}"] if result["ensemble"]["weighting"] != "equal" else []
    return "\n".join(
        [
            f"{record.recipe.name}: {method_words(record)} {fit_words(record)}",
            aligned([("member", "model", "weight", "test %"), *member_rows(record)], left=(0, 1)),
            *equal,
            f"test accuracy {result['test_accuracy_percent']:.2f} % on {data}{remark}",
        ]
    )
