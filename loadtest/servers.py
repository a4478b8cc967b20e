"""Servers under test, each a process tree of its own, measured from outside."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
import psutil

from loadtest.bare import THREAD_CAPS
from loadtest.facts import tree_cpu_s, tree_rss_bytes


def free_port() -> int:
    """A free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class ServerArm:
    """A server started by a command; `url` takes a JPEG by POST, `ready_url` answers 200 when it is up."""

    name: str
    command: list[str]
    url: str
    ready_url: str
    env: dict[str, str] = field(default_factory=dict)
    log: Path | None = None
    process: psutil.Popen | None = None

    def start(self, timeout_s: float = 120.0) -> None:
        """Start and wait until it is ready."""
        sink = self.log.open("wb") if self.log else subprocess.DEVNULL
        env = {**os.environ, **self.env}
        self.process = psutil.Popen(
            self.command, env=env, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}; its log: {self.log}")
            try:
                if httpx.get(self.ready_url, timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.2)
        raise RuntimeError(f"{self.name} was not ready within {timeout_s:.0f} s; its log: {self.log}")

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the tree so far."""
        assert self.process is not None
        return tree_cpu_s(self.process)

    @property
    def rss_bytes(self) -> int:
        """Resident bytes of the tree."""
        assert self.process is not None
        return tree_rss_bytes(self.process)

    def stop(self) -> None:
        """End the tree."""
        if self.process is None or self.process.poll() is not None:
            return
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(40)
        except psutil.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


def ours(models: Sequence[str], repository: Path, log: Path) -> ServerArm:
    """`lockstep serve` with its defaults; `url` is the first model's."""
    port = free_port()
    lockstep = str(Path(sys.executable).with_name("lockstep"))
    command = [lockstep, "serve", *models, "--repository", str(repository), "--port", str(port)]
    base = f"http://127.0.0.1:{port}"
    return ServerArm("lockstep", command, f"{base}/v1/models/{models[0]}/infer", f"{base}/readyz", log=log)


def mosec(version_dir: Path, log: Path, workers: int) -> ServerArm:
    """mosec, batch 4."""
    port = free_port()
    command = [sys.executable, "-m", "loadtest.peers.mosec_peer", "--port", str(port), "--address", "127.0.0.1"]
    base = f"http://127.0.0.1:{port}"
    env = {"LOADTEST_VERSION_DIR": str(version_dir), "LOADTEST_WORKERS": str(workers), **THREAD_CAPS}
    return ServerArm("mosec", command, f"{base}/inference", f"{base}/metrics", env, log)


def fastapi(version_dir: Path, log: Path, workers: int) -> ServerArm:
    """Plain FastAPI under uvicorn."""
    port = free_port()
    app = "loadtest.peers.fastapi_peer:app"
    command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--workers", str(workers)]
    command += ["--log-level", "warning"]
    base = f"http://127.0.0.1:{port}"
    env = {"LOADTEST_VERSION_DIR": str(version_dir), **THREAD_CAPS}
    return ServerArm("fastapi", command, f"{base}/infer", base, env, log)
