"""Command lines from dataclasses: tyro makes the flags, and every mistake is one line and exit code 2."""

import contextlib
import dataclasses
import io
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, get_type_hints

import tyro

from ..errors import UserError, nearest
from ..runtime.console import console, fill_standard_descriptors, styles_allowed
from ..runtime.user import name_user

T = TypeVar("T")


def parse_flags(cls: type[T], arguments: list[str], *, prog: str, default: T | None = None) -> T:
    """Parse ``arguments`` into the dataclass ``cls``, whose fields are the flags.

    Raises:
        UserError: an unknown flag (names the nearest), a missing or unreadable value.
        SystemExit: code 0, after ``--help``.
    """
    known = ["--help", *known_flags(cls)]
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag.startswith("--") and flag.replace("_", "-") not in known:
            raise UserError(f"unknown flag {flag}{nearest(flag, known)}; --help lists them all")
    errors = io.StringIO()
    options: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(errors), styles_allowed():
            return tyro.cli(cls, args=arguments, prog=prog, config=(tyro.conf.OmitArgPrefixes,), **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_message(errors.getvalue())) from None


def known_flags(cls: Any) -> Iterator[str]:
    """Every flag that ``parse_flags`` makes for ``cls``, the ``--no-`` forms of switches included."""
    hints = get_type_hints(cls)
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[f.name]):
            yield from known_flags(hints[f.name])
            continue
        name = f.name.replace("_", "-")
        yield f"--{name}"
        if hints[f.name] is bool:
            yield f"--no-{name}"


def _message(box: str) -> str:
    """The message of tyro's error box, as one line."""
    message: list[str] = []
    for line in box.splitlines():
        text = line.strip("│ ")
        if text and set(text) <= {"─"}:
            break
        if text and not text.startswith(("╭", "╰")):
            message.append(text)
    return " ".join(message) or "the command line could not be read; --help explains it"


def run_main(body: Callable[[list[str]], int], arguments: list[str] | None) -> int:
    """Run a command's body on its arguments (default: those of the process) and return the exit code.

    A user's mistake becomes one line on stderr and code 2; an interrupt code 130. Where standard output cannot be
    written, the command goes on without: a reader that closed the pipe is no error, a full disk is code 1 at the end.
    """
    fill_standard_descriptors()
    name_user()
    with console() as (out, err):
        code = _exit_code(body, sys.argv[1:] if arguments is None else arguments)
        out.flush()
        if out.lost and not isinstance(out.lost, BrokenPipeError):
            print(f"cifarfast: standard output could not be written: {out.lost}", file=sys.stderr)
            code = code or 1
        err.flush()
        for stream in (out, err):
            if stream.lost:
                stream.abandon()
    return code


def _exit_code(body: Callable[[list[str]], int], arguments: list[str]) -> int:
    try:
        return body(arguments)
    except UserError as error:
        print(f"cifarfast: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except SystemExit as stop:  # after --help
        return int(stop.code or 0)
