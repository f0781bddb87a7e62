"""The one exception for a user's mistake, and the nearest-name hint that goes with it."""

import difflib
import re
from collections.abc import Iterable

_LONGEST = 4000


class UserError(ValueError):
    """A mistake of the caller: one line that says what is wrong and what to do.

    The command line prints it without a traceback and exits with code 2. Line breaks, which a file's name or another
    library's message may have, become spaces; of a message longer than 4,000 characters, as one that quotes a damaged
    file, the middle is left out.
    """

    def __init__(self, message: str) -> None:
        line = re.sub(r"\s*[\n\r\v\f\x85\u2028\u2029]\s*", " ", message)
        super().__init__(line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1000]} … {line[-900:]}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``", did you mean 'X'?"`` for the known name closest to ``name``, or ``""`` when none is close.

    Close are two thirds of the letters in the same order (difflib's ratio), and a beginning of three letters or more;
    case and a flag's dashes do not count.
    """
    plain = {_plain(word): word for word in reversed(list(known))}
    word = _plain(name)
    matches = difflib.get_close_matches(word, plain, n=1, cutoff=2 / 3)
    matches = matches or [other for other in reversed(plain) if len(word) >= 3 and other.startswith(word)]
    return f", did you mean {plain[matches[0]]!r}?" if matches else ""


def _plain(word: str) -> str:
    return word.casefold().lstrip("-")
