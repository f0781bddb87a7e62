"""Programs run one after the other, each within its part of a time limit, whatever becomes of the others."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

GRACE_SECONDS = 12.0


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
    """

    name: str
    title: str
    weight: float
    command: Callable[[], Sequence[str] | str]
    environment: Mapping[str, str] = field(default_factory=dict)
    read: Callable[["Ran"], str] = lambda ran: ran.last_line()


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
    end soon.
    """
    command = part.command()
    if isinstance(command, str):
        return Ran(part, "left out", 0.0, "", command)
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment, **part.environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_hear_interrupts,
        )
        late = _wait(process, seconds)
    text = log.read_text(encoding="utf-8", errors="replace")
    outcome = "out of time" if late else "failed" if process.returncode else "passed"
    ran = Ran(part, outcome, time.monotonic() - started, text)
    return Ran(part, outcome, ran.seconds, text, part.read(ran))


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
