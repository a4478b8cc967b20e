"""One long-running process of `lockstep up`: started, watched, started again, ended; what it says goes to a file."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from deploy.embedded.child import start_bound

FIRST_S, MOST_S, STEADY_S = 0.5, 8.0, 10.0


@dataclass(slots=True)
class Service:
    """A role. ready_url: answers 200 once it can work, "" where there is nothing to ask. where: what a person opens.

    Start it from the thread that lives as long as it shall: it ends with that thread (serving.triton.exec_bound).
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    ready_url: str = ""
    where: str = ""
    restarts: int = 0
    process: subprocess.Popen[bytes] | None = None
    due: float = 0.0
    _delay_s: float = 0.0
    _started: float = field(default=0.0)

    @property
    def pid(self) -> int | None:
        """None while it does not run."""
        return self.process.pid if self.process is not None and self.process.poll() is None else None

    def start(self) -> None:
        """Its output is appended to the log."""
        self.process = start_bound(self.command, self.log, self.environment)
        self._started = time.monotonic()

    def watch(self, told: TextIO) -> None:
        """Start it again where it ended, after a back-off that grows while it keeps ending."""
        now = time.monotonic()
        if self.process is None or self.process.poll() is None:
            if self.process is not None and now - self._started > STEADY_S:
                self._delay_s = 0.0
            return
        if not self.due:
            self._delay_s = min(max(2 * self._delay_s, FIRST_S), MOST_S)
            self.due = now + self._delay_s
            how = (
                f"status {self.process.returncode}"
                if self.process.returncode >= 0
                else f"signal {-self.process.returncode}"
            )
            print(f"{self.name} ended with {how}; started again in {self._delay_s:g} s; see {self.log}", file=told)
            told.flush()
        elif now >= self.due:
            self.due, self.restarts = 0.0, self.restarts + 1
            self.start()

    def ask_to_end(self) -> None:
        """SIGTERM."""
        if self.pid is not None and self.process is not None:
            self.process.terminate()

    def end(self, deadline: float) -> bool:
        """Wait until time.monotonic() is `deadline`, then kill; whether it ended by itself."""
        if self.process is None:
            return True
        try:
            self.process.wait(max(0.01, deadline - time.monotonic()))
            return True
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return False
