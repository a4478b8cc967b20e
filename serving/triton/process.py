"""One run of tritonserver: spawned into its own process group, its output read, ended without orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from serving.triton import exec_bound
from serving.triton.logs import LogLine, translate

STOP_SECONDS = 10.0
KEPT_LINES = 60
_NOTHING_IN_FLIGHT = "Found 0 model versions that have in-flight inferences"


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
        self._drained = threading.Event()
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
        """SIGTERM, which lets requests in flight end; then, or after `timeout_s`, SIGKILL to what is left.

        Triton says when nothing is in flight any more. What it does after that, in steps of a second, is unload
        models; their processes hold nothing that has to be written, so they are not waited for.
        """
        if self.exit_code is None:
            self._process.terminate()
            deadline = time.monotonic() + timeout_s
            while self.exit_code is None and not self._drained.wait(0.02):
                if time.monotonic() > deadline:
                    self._on_line(LogLine("warning", "supervisor", "tritonserver did not end in time: killed"))
                    break
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
                    if _NOTHING_IN_FLIGHT in line.message:
                        self._drained.set()
                    self._on_line(line)


def remove_shared_memory(prefix: str) -> int:
    """Unlink regions in /dev/shm whose names begin with `prefix`; how many there were. Killed stubs leave theirs."""
    found = list(Path("/dev/shm").glob(f"{prefix}*"))
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)
