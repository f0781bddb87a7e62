"""SIGINT, SIGTERM and SIGHUP as a request to stop at the next safe point."""

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any


class Interrupted(Exception):
    """The run in ``folder`` was asked to stop and has saved its state; ``exit_code`` is 130, 143 or 129."""

    def __init__(self, signum: int, folder: Path) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum
        self.folder = folder


class StopRequest:
    """Context in which the first SIGINT, SIGTERM or SIGHUP only sets ``signum``; the next acts as it always does."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup, or & in a script
                    self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()
