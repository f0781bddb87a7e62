"""A caller's mistake is one of our errors, of one line, that says what is wrong."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cifarfast.commands import cli
from cifarfast.errors import UserError

Fails = Callable[..., str]


@contextmanager
def refused(*parts: str, match: str | None = None) -> Iterator[None]:
    """What is done inside must raise a ``UserError`` of one line that has these parts and ``match``, a pattern."""
    with pytest.raises(UserError, match=match) as caught:
        yield
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """Run a command of ``cifarfast`` that must end with code 2 and one line on stderr, which is returned.

    Nothing else may be said, unless ``out`` is None.
    """

    def run(*arguments: object, out: str | None = "") -> str:
        capsys.readouterr()
        assert cli.main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1
        assert out is None or captured.out == out
        return captured.err

    return run
