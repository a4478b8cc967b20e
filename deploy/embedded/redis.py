"""A real Redis on a free loopback port, protected by a password of its own, with a data folder of its own.

It is an index and a cache: nothing is kept over a restart, memory is bounded, and keys that would end soon go first.
`stop` and `start` keep port and password, so clients find it again. It ends with the process that started it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from deploy.embedded.child import end, start_bound
from serving.errors import Unavailable
from serving.free_ports import free_port

START_SECONDS = 10.0
STOP_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """data: folder of its configuration and output. port 0: a free one."""

    data: Path
    port: int = 0
    max_memory_mb: int = 256


class EmbeddedRedis:
    """One server. Start it from the thread that lives as long as it shall (see serving.triton.exec_bound)."""

    def __init__(self, settings: RedisSettings) -> None:
        self.settings = settings
        self._port = settings.port
        self._password = secrets.token_urlsafe(24)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """With the password: not to be printed."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def shown(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def output(self) -> Path:
        """What it says."""
        return self.settings.data / "redis.out"

    def start(self) -> None:
        """Return when it answers. Raises Unavailable with what is missing, or with the end of its output."""
        if self.pid is not None:
            return
        server = shutil.which("redis-server")
        if server is None:
            raise Unavailable("embedded Redis: there is no redis-server", hint="apt-get install redis-server")
        self.settings.data.mkdir(parents=True, exist_ok=True)
        if not self._port:
            self._port = free_port()
        file = self.settings.data / "redis.conf"
        file.touch(mode=0o600)
        file.chmod(0o600)
        file.write_text("".join(f"{name} {value}\n" for name, value in self._directives()))
        self._process = start_bound([server, str(file)], self.output)
        self._wait_until_it_answers()

    def stop(self, timeout_s: float = STOP_SECONDS) -> None:
        """In good order, killed where that takes too long."""
        if self._process is not None:
            end(self._process, timeout_s)
            self._process = None

    def kill(self) -> None:
        """SIGKILL."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def __enter__(self) -> EmbeddedRedis:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _directives(self) -> list[tuple[str, str]]:
        return [
            ("bind", "127.0.0.1"),
            ("port", str(self._port)),
            ("protected-mode", "yes"),
            ("requirepass", self._password),
            ("dir", str(self.settings.data.resolve())),
            ("save", '""'),
            ("appendonly", "no"),
            ("maxmemory", f"{self.settings.max_memory_mb}mb"),
            ("maxmemory-policy", "volatile-ttl"),
            ("daemonize", "no"),
            ("enable-debug-command", "no"),
            ("enable-module-command", "no"),
        ]

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.pid is None:
                self._process = None
                said = " ".join(self.output.read_text("utf-8", "replace").split())[-500:]
                raise Unavailable(f"embedded Redis ended at its start: {said}")
            if self._answers():
                return
            time.sleep(0.02)
        self.kill()
        raise Unavailable(f"embedded Redis did not answer within {START_SECONDS:.0f} s; see {self.output}")

    def _answers(self) -> bool:
        """AUTH and PING by hand (RESP): the client library is for those who use it."""
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                said = b""
                while b"PONG" not in said and (more := connection.recv(1024)):
                    said += more
                return b"+OK" in said and b"+PONG" in said
        except OSError:
            return False
