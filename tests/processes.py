"""Start the training command in real processes that can be killed, without paying for the imports each time."""

import contextlib
import io
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["cifarfast.commands.train", "torch._dynamo"])  # with which MACs are counted


@dataclass(frozen=True)
class Finished:
    """A process that ended; a negative code is the signal that killed it, as in subprocess."""

    code: int
    stdout: str
    stderr: str


def start_train(arguments: Sequence[str], log: Path, prepare: Callable[[], None] | None = None) -> BaseProcess:
    """Start ``cifarfast train`` in a process of its own; ``prepare`` runs in it first."""
    process = _context.Process(target=_train, args=(list(arguments), log, prepare))
    process.start()
    return process


def finish(process: BaseProcess, log: Path, timeout: float = 120) -> Finished:
    """Wait for a process that ``start_train`` started."""
    process.join(timeout)
    assert process.exitcode is not None, f"still running after {timeout} s"
    return Finished(process.exitcode, _text(log, "out"), _text(log, "err"))


def train(arguments: Sequence[str], log: Path, prepare: Callable[[], None] | None = None) -> Finished:
    """Run ``cifarfast train`` to its end in a process of its own."""
    return finish(start_train(arguments, log, prepare), log)


def wait_until(moment: Callable[[], object], process: BaseProcess, seconds: float = 60) -> None:
    """Wait for a moment of a process's life."""
    until = time.monotonic() + seconds
    while not moment():
        assert process.is_alive()
        assert time.monotonic() < until
        time.sleep(0.005)


def _text(log: Path, stream: str) -> str:
    return log.with_suffix(f".{stream}").read_text()


def _train(arguments: list[str], log: Path, prepare: Callable[[], None] | None) -> None:
    with (
        log.with_suffix(".out").open("w", buffering=1) as out,
        log.with_suffix(".err").open("w", buffering=1) as err,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        if prepare:
            prepare()
        from cifarfast.commands.train import main

        sys.exit(main(arguments))


@dataclass(frozen=True)
class KillAtCall:
    """A ``prepare`` that makes the process kill itself at the n-th call of a function of ``os``."""

    function: str
    call: int

    def __call__(self) -> None:
        original, calls = getattr(os, self.function), 0

        def counted(*args: object, **kwargs: object) -> object:
            nonlocal calls
            calls += 1
            if calls == self.call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(os, self.function, counted)


@dataclass(frozen=True)
class AnotherUser:
    """A ``prepare`` that gives up root's rights, once a run has imported what that user may not be able to read."""

    imports: list[str]

    def __call__(self) -> None:
        run_inline(self.imports)
        os.setuid(65534)


@dataclass(frozen=True)
class InForeground:
    """A ``prepare`` that undoes what a shell or nohup does to a background job: signals ignored, which the trainer
    respects."""

    def __call__(self) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def run_inline(arguments: Sequence[str], code: int | None = None) -> Finished:
    """Run ``cifarfast train`` in this process, for what needs no process of its own; it must end with ``code``."""
    from cifarfast.commands.train import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        ended = main(list(arguments))
    assert code in (None, ended), err.getvalue()
    return Finished(ended, out.getvalue(), err.getvalue())
