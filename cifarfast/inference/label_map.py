"""Maps a model's classes to a data set's, where one set of names is the other one reordered or merged.

EMNIST's byMerge and Balanced have 47 of byClass's 62 classes: fifteen lower-case letters that look like their capitals
count as these (C I J K L M O P S U V W X Y Z). Whichever side is finer is brought to the coarser one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError

MERGED_LETTERS = frozenset("cijklmopsuvwxyz")


@dataclass(frozen=True)
class LabelMap:
    """How to compare a model with data of other classes.

    Attributes:
        classes: names in which both are compared.
        of_model: for each class of the model its position in ``classes``.
        of_data: for each class of the data its position in ``classes``.
    """

    classes: tuple[str, ...]
    of_model: tuple[int, ...]
    of_data: tuple[int, ...]

    def map_logits(self, logits: Tensor) -> Tensor:
        """Logits [N, model's classes] → [N, classes]: the probability of a merged class is the sum of its parts'."""
        target = torch.tensor(self.of_model, device=logits.device)
        parts = [logits[:, target == c].logsumexp(dim=1) for c in range(len(self.classes))]
        return torch.stack(parts, dim=1)

    def map_labels(self, labels: Tensor) -> Tensor:
        """Labels of the data, int64 [N], as positions in ``classes``."""
        return torch.tensor(self.of_data, device=labels.device)[labels]


def label_map(model: Sequence[str], data: Sequence[str]) -> LabelMap | None:
    """The map between a model's and a data set's classes; None when they are the same in the same order.

    Raises:
        UserError: neither has the names of the other, and EMNIST's merge rule does not make them so.
    """
    if tuple(model) == tuple(data):
        return None
    for coarse in (tuple(data), tuple(model)):
        of_model, of_data = _positions(model, coarse), _positions(data, coarse)
        if of_model and of_data:
            return LabelMap(coarse, of_model, of_data)
    raise UserError(
        f"the model's {len(model)} classes ({_few(model)}) and the data's {len(data)} ({_few(data)}) have no mapping: "
        "the names must be the same, or both of EMNIST's byClass, byMerge and Balanced"
    )


def _positions(names: Sequence[str], coarse: Sequence[str]) -> tuple[int, ...] | None:
    """Where each name lands in ``coarse``; None unless every one does and every place is taken."""
    where = {name: position for position, name in enumerate(coarse)}
    merged = {name: name.upper() if name in MERGED_LETTERS and name not in where else name for name in names}
    found = [where.get(merged[name]) for name in names]
    positions = tuple(position for position in found if position is not None)
    return positions if len(positions) == len(names) and set(positions) == set(where.values()) else None


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
