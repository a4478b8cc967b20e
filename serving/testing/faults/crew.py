"""The processes of a fault test: started, struck by signals, started again by a supervisor as a service manager would.

Processes are forked from a zygote; `cold` ones are interpreters of their own, whose start takes as long as it does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESTART_S = 0.2
PATIENCE_S = 30.0
BEGIN_S = 120.0  # a zygote imports everything first


@dataclass(slots=True)
class Member:
    """One process. keep: started again when it ends by itself or by SIGKILL. exits: how it ended, each time."""

    name: str
    spec: Mapping[str, Any]
    keep: bool = True
    cold: bool = False
    hold_s: float = RESTART_S  # the supervisor waits so long before it starts it again
    pid: int | None = None
    exits: list[int] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    ended_at: float = 0.0
    started_at: float = 0.0


class Crew:
    """Use as a context manager; everything it started has ended when it is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.members: dict[str, Member] = {}
        self._guard = threading.RLock()
        self._over = threading.Event()

    def __enter__(self) -> Crew:
        environment = {**_environment(), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with (self.folder / "zygote.log").open("ab") as log:
            self._zygote = subprocess.Popen(
                [sys.executable, "-m", "serving.testing.faults.zygote"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment,
            )  # fmt: skip
        self._threads = [threading.Thread(target=t, daemon=True) for t in (self._listen, self._supervise)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        for member in self.members.values():
            member.keep = False
        self._over.set()
        for member in list(self.members.values()):
            if member.pid is not None:
                _signal(member.pid, signal.SIGKILL)
        assert self._zygote.stdin is not None
        self._zygote.stdin.close()
        self._zygote.wait(10)
        for member in self.members.values():
            if member.process is not None:
                member.process.wait(10)
        for thread in self._threads:
            thread.join(5)
        if self._zygote.stdout is not None:
            self._zygote.stdout.close()

    # -- what tests do ----------------------------------------------------------------------------------------------

    def start(self, name: str, spec: Mapping[str, Any], keep: bool = True) -> Member:
        """Start a process; returns when it has a pid."""
        member = Member(name, spec, keep)
        with self._guard:
            self.members[name] = member
        self._launch(member)
        self.until(lambda: member.pid is not None, f"{name} starts", BEGIN_S)
        return member

    def strike(self, name: str, number: int = signal.SIGKILL) -> float:
        """Send a signal; the time (seconds since 1970) just before it."""
        member = self.members[name]
        pid, now = member.pid, time.time()
        if pid is None:
            raise RuntimeError(f"{name} does not run")
        _signal(pid, number)
        return now

    def kill(self, name: str) -> float:
        """SIGKILL; returns when it is gone. The time just before it."""
        member = self.members[name]
        exits = len(member.exits)
        at = self.strike(name, signal.SIGKILL)
        self.until(lambda: len(member.exits) > exits, f"{name} is gone")
        return at

    def stop(self, name: str, patience_s: float = PATIENCE_S) -> int:
        """SIGTERM, wait, and not started again; the exit status."""
        member = self.members[name]
        member.keep = False
        if member.pid is not None:
            self.strike(name, signal.SIGTERM)
            self.until(lambda: member.pid is None, f"{name} ends", patience_s)
        return member.exits[-1]

    def restart(self, name: str, patience_s: float = PATIENCE_S) -> None:
        """SIGTERM; its supervisor starts it again; returns when the new one has a pid."""
        member = self.members[name]
        exits = len(member.exits)
        self.strike(name, signal.SIGTERM)
        self.until(lambda: len(member.exits) > exits and member.pid is not None, f"{name} restarts", patience_s)

    def alive(self, name: str) -> bool:
        """It runs."""
        member = self.members.get(name)
        return member is not None and member.pid is not None

    def said(self, name: str) -> str:
        """What it printed."""
        path = self.folder / f"{name}.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def until(self, condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
        """Wait for a condition. Raises TimeoutError with what was waited for."""
        deadline = time.monotonic() + patience_s
        while not condition():
            if time.monotonic() > deadline:
                ended = {m.name: self.said(m.name)[-800:] for m in self.members.values() if any(m.exits)}
                raise TimeoutError(f"{what}: not within {patience_s:.0f} s; ended with an error: {ended or 'none'}")
            time.sleep(0.02)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _launch(self, member: Member) -> None:
        member.started_at = time.time()
        log = self.folder / f"{member.name}.log"
        if member.cold:
            with log.open("ab") as out:
                member.process = subprocess.Popen(
                    [sys.executable, "-m", "serving.testing.faults.role", json.dumps(member.spec)],
                    stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                )  # fmt: skip
            member.pid = member.process.pid
            return
        order = {"id": member.name, "log": str(log), "spec": dict(member.spec)}
        assert self._zygote.stdin is not None
        with self._guard:
            self._zygote.stdin.write(json.dumps(order).encode() + b"\n")
            self._zygote.stdin.flush()

    def _listen(self) -> None:
        assert self._zygote.stdout is not None
        for line in self._zygote.stdout:
            told = json.loads(line)
            member = self.members[told["id"]]
            if "pid" in told:
                member.pid = told["pid"]
            else:
                self._ended(member, told["exit"])

    def _ended(self, member: Member, status: int) -> None:
        member.ended_at = time.time()
        member.exits.append(status)
        member.pid = None

    def _supervise(self) -> None:
        while not self._over.wait(0.05):
            for member in list(self.members.values()):
                if member.process is not None and member.pid is not None and member.process.poll() is not None:
                    self._ended(member, member.process.returncode)
                waiting = member.pid is None and member.exits and member.started_at < member.ended_at
                if waiting and member.keep and time.time() - member.ended_at >= member.hold_s:
                    self._launch(member)


def _environment() -> dict[str, str]:
    from serving.config import child_environment

    return child_environment()


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it ended by itself just now, which the supervisor sees
