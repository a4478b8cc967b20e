"""One run of tritonserver: spawned into its own process group, its output read, ended without orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from serving.triton import exec_bound
from serving.triton.logs import LogLine, translate

STOP_SECONDS = 10.0
KEPT_LINES = 60


class TritonProcess:
    """A running tritonserver. Made by the thread that watches it (see exec_bound)."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], on_line: Callable[[LogLine], None]
    ) -> None:
        shim = [sys.executable, "-I", "-S", exec_bound.__file__, str(os.getpid())]
        self._process = subprocess.Popen(
            [*shim, *command],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
        )
        self.last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._on_line = on_line
        self._reader = threading.Thread(target=self._read, name="triton-log", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id of tritonserver, which is its group's id too."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def end(self, timeout_s: float = STOP_SECONDS) -> None:
        """SIGTERM, then SIGKILL after `timeout_s`; in any case nothing of the process group is left."""
        if self.exit_code is None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                pass_over = "did not end in time: killed"
                self._on_line(LogLine("warning", "supervisor", f"tritonserver {pass_over}"))
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole group: server and stubs."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            self.last_lines.append("process group already gone")
        self._process.wait()
        self._reader.join(2.0)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            for data in pipe:
                line = translate(data.decode("utf-8", "replace"))
                if line is not None:
                    self.last_lines.append(line.message)
                    self._on_line(line)


def remove_shared_memory(prefix: str) -> int:
    """Unlink regions in /dev/shm whose names begin with `prefix`; how many there were. Killed stubs leave theirs."""
    found = list(Path("/dev/shm").glob(f"{prefix}*"))
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)
