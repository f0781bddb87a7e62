"""Messages of mistakes. Line 23: a hint names what is close, and nothing where nothing is."""

import pytest

from cifarfast.commands.cli import COMMANDS
from cifarfast.errors import UserError, nearest
from cifarfast.models import list_models


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("nope", list_models(), ""),
        ("vit", list_models(), ""),
        ("--shuffle", ["--help", "--epochs", "--batch-size"], ""),
        ("--lr-max", ["--lr", "--help", "--max-epochs"], ""),
        ("resnet8", list_models(), ", did you mean 'resnet18'?"),
        ("WRN16_8", list_models(), ", did you mean 'wrn16_8'?"),
        ("--ephocs", ["--help", "--epochs"], ", did you mean '--epochs'?"),
        ("eval", COMMANDS, ", did you mean 'evaluate'?"),
        ("emnist", ["mnist_like_but_longer", "emnist_letters"], ", did you mean 'emnist_letters'?"),
    ],
)
def test_line_23_nearest(name: str, known: list[str], hint: str) -> None:
    assert nearest(name, known) == hint


def test_a_message_is_one_line_of_bounded_length() -> None:
    assert str(UserError("a\n  b")) == "a b"
    long = str(UserError("begin" + "x" * 10**6 + "end"))
    assert long.startswith("begin")
    assert long.endswith("end")
    assert len(long) < 4000
