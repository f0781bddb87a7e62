"""Programs run one after the other, each within its part of a time limit, whatever becomes of the others."""

import contextlib
import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

GRACE_SECONDS = 12.0
LEAST_SECONDS = 10.0


@dataclass(frozen=True)
class Part:
    """A program of a check.

    Args:
        name: short, as given on the command line.
        title: in the summary.
        weight: its part of the time; what earlier parts leave over is added.
        command: returns the arguments to start it with, or a line that says why it cannot run.
        environment: variables to set for it.
        read: from how it went to what the summary says about it.
        start_again: the exit code with which it asks, after a failure, to be started once more for the rest.
    """

    name: str
    title: str
    weight: float
    command: Callable[[], Sequence[str] | str]
    environment: Mapping[str, str] = field(default_factory=dict)
    read: Callable[["Ran"], str] = lambda ran: ran.last_line()
    start_again: int | None = None


@dataclass(frozen=True)
class Ran:
    """How a part went.

    Args:
        part: which.
        outcome: "passed", "failed", "out of time" or "left out".
        seconds: that it took.
        log: what it printed.
        notes: what the summary says about it.
    """

    part: Part
    outcome: str
    seconds: float
    log: str
    notes: str = ""

    def last_line(self) -> str:
        """The last line of the log that is not empty."""
        lines = [line.strip() for line in self.log.splitlines() if line.strip()]
        return lines[-1] if lines else ""


def deadlines(parts: Sequence[Part], seconds: float) -> list[float]:
    """When each part must have ended, in seconds from the start."""
    total, reached, ends = sum(part.weight for part in parts), 0.0, []
    for part in parts:
        reached += part.weight
        ends.append(seconds * reached / total)
    return ends


def run_part(part: Part, seconds: float, log: Path, environment: Mapping[str, str], folder: Path) -> Ran:
    """Run a part for at most so many seconds; what it prints goes to ``log``.

    When the time is over it is interrupted, as by Ctrl-C, so that it can write what it has, and killed if it does not
    end soon. Whatever it leaves behind, this returns.
    """
    started = time.monotonic()
    try:
        command = part.command()
    except Exception as error:
        return Ran(part, "failed", 0.0, traceback.format_exc(), f"it could not be started: {error!r}")
    if isinstance(command, str):
        return Ran(part, "left out", 0.0, "", command)
    variables = {**os.environ, **environment, **part.environment}
    log.unlink(missing_ok=True)
    again = False
    while True:
        left = seconds - (time.monotonic() - started)
        code = _run(command, left, log, variables, folder)
        # with a few seconds left nothing would even begin
        if code is None or code != part.start_again or seconds - (time.monotonic() - started) < LEAST_SECONDS:
            break
        again = True
    text = log.read_text(encoding="utf-8", errors="replace")
    outcome = "out of time" if code is None else "failed" if code or again else "passed"
    ran = Ran(part, outcome, time.monotonic() - started, text)
    try:
        notes = part.read(ran)
    except Exception as error:  # such as half a file
        notes = f"{ran.last_line()} (its results cannot be read: {error!r})"
    return replace(ran, notes=notes)


def _run(command: Sequence[str], seconds: float, log: Path, environment: Mapping[str, str], folder: Path) -> int | None:
    """Run a program, its output added to ``log``; its exit code, None if it had to be interrupted."""
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_hear_interrupts,
        )
        late = _wait(process, seconds)
    return None if late else process.returncode


def _hear_interrupts() -> None:
    """A shell that starts a program in the background makes it deaf to them, and so its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Wait for a process and everything that it started; whether it had to be interrupted."""
    late = False
    grace = min(GRACE_SECONDS, seconds / 4)
    try:
        process.wait(max(seconds - grace, 0.1))
    except subprocess.TimeoutExpired:
        late = True
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return late
