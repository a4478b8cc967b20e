"""Starting, asking and ending a gateway as real processes (serving.testing.stub_gateway)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Running:
    """A started gateway."""

    host: str
    port: int
    process: subprocess.Popen[str]
    log: Path

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def connect(self, timeout: float = 15.0) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout)

    def get(self, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def exchange(self, data: bytes, timeout: float = 15.0) -> bytes:
        """Send bytes, read until the other side closes (or the timeout)."""
        with self.connect(timeout) as sock:
            sock.sendall(data)
            return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    """Everything up to the end of the connection."""
    data = b""
    while chunk := sock.recv(65536):
        data += chunk
    return data


def problem_of(raw: bytes) -> dict[str, Any]:
    """The problem document of a raw HTTP answer."""
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, raw[:500]
    document: dict[str, Any] = json.loads(body)
    return document


Start = Callable[..., Running]


@contextlib.contextmanager
def gateways(folder: Path) -> Iterator[Start]:
    """A function that starts gateways, by settings; all are ended, and their workers with them, after the block."""
    started: list[Running] = []

    def run(delay: float = 0.0, only: Sequence[str] = (), streams: bool = False, **settings: Any) -> Running:
        started.append(launch(folder, len(started), delay, settings, only, streams))
        wait_ready(started[-1])
        return started[-1]

    try:
        yield run
    finally:
        for gateway in started:
            if gateway.process.poll() is None:
                gateway.process.send_signal(signal.SIGTERM)
        for gateway in started:
            stop(gateway)


def launch(
    folder: Path, number: int, delay: float, settings: dict[str, Any], only: Sequence[str] = (), streams: bool = False
) -> Running:
    """Start one; it listens when this returns."""
    log = folder / f"gateway{number}.log"
    command = [sys.executable, "-m", "serving.testing.stub_gateway", str(folder / f"models{number}")]
    command += ["--streams"] if streams else []
    command += ["--delay", str(delay), *(word for name in only for word in ("--only", name))]
    for name, value in {"drain_s": 0, **settings}.items():
        command += ["--set", f"{name}={value}"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True)
    assert process.stdout is not None
    line = process.stdout.readline().split()
    assert len(line) == 2, log.read_text()
    return Running(line[0], int(line[1]), process, log)


def wait_ready(gateway: Running) -> None:
    """Until the canaries of some worker have passed."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if gateway.get("/readyz")[0] == 200:
                return
        time.sleep(0.05)
    raise AssertionError(gateway.log.read_text())


def stop(gateway: Running) -> None:
    """Wait for the end of a gateway that was told to; none of its workers may be left."""
    assert gateway.process.stdout is not None
    gateway.process.stdout.close()
    try:
        gateway.process.wait(26)
    except subprocess.TimeoutExpired:
        os.killpg(gateway.process.pid, signal.SIGKILL)
        gateway.process.wait(5)
        raise AssertionError(f"did not end: {gateway.log.read_text()}") from None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(gateway.process.pid, 0)
        raise AssertionError("a worker outlived its parent")
