"""The distributed system as a stranger starts it: a broker, topics, roles; each process's CPU, what is on a topic."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from loadtest.facts import tree_cpu_s
from loadtest.servers import free_port
from loadtest.stream_run import executable

READY_S, STOP_S = 240.0, 30.0


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = READY_S, every_s: float = 0.05) -> float:
    """Seconds until it held. RuntimeError after timeout_s."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout_s:
            raise RuntimeError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(every_s)
    return time.monotonic() - began


@dataclass(slots=True)
class System:
    """Processes by name. folder: data, logs. repository: of the models. Use as a context manager: nothing is left."""

    folder: Path
    repository: Path
    prefix: str = "bench."
    port: int = field(default_factory=free_port)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    pages: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> System:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run([sys.executable, "-m", "deploy.embedded.kafka_jars"], check=True, stdout=subprocess.DEVNULL)
            self.start_broker()
            self.call("topics", "apply")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """Of the broker."""
        return f"127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Settings of every process."""
        own = {"KAFKA": self.address, "KAFKA_PREFIX": self.prefix, "REPOSITORY": str(self.repository)}
        return {**os.environ, **{f"LOCKSTEP_{name}": value for name, value in own.items()}}

    def start_broker(self) -> float:
        """Seconds until it listens."""
        self._start(
            "broker", [sys.executable, "-m", "deploy.embedded.kafka", str(self.folder / "data"), str(self.port)]
        )
        return wait_for(lambda: self._said("broker", "listens"), "broker")

    def stop_broker(self) -> None:
        """In good order."""
        self._end("broker")

    def call(self, *words: str) -> None:
        """One command, to its end. RuntimeError with what it said."""
        line = [executable(), *words]
        done = subprocess.run(line, env=self.environment, capture_output=True, text=True, timeout=READY_S, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(line)} ended with {done.returncode}: {done.stderr[-1000:]}")

    def role(self, name: str, *words: str, command: Sequence[str] = ()) -> None:
        """Start a role; wait until it is ready. command: instead of `lockstep`."""
        port = self.pages[name] = free_port()
        line = [*(command or [executable()]), *words]
        self._start(name, line, {"LOCKSTEP_ROLE_METRICS_PORT": str(port)})
        wait_for(lambda: self._is_ready(name), f"{name} ({self.folder / f'{name}.log'})")

    def job(self, name: str, *words: str, command: Sequence[str] = ()) -> None:
        """Start something without a page of its own."""
        self._start(name, [*(command or [executable()]), *words])

    def join(self, name: str, timeout_s: float = 600.0) -> None:
        """Wait for its end. RuntimeError where it failed."""
        code = self.running.pop(name).wait(timeout_s)
        if code != 0:
            raise RuntimeError(f"{name} ended with {code}: {(self.folder / f'{name}.log').read_text()[-1000:]}")

    def kill(self, name: str) -> None:
        """kill -9."""
        child = self.running.pop(name)
        child.kill()
        child.wait()

    def cpu_s(self, name: str) -> float:
        """CPU seconds of a process and its children so far."""
        return tree_cpu_s(psutil.Process(self.running[name].pid))

    def metric(self, name: str, start: str) -> float:
        """The sum of a role's samples that begin so; 0 where there is none."""
        return sum(value for sample, value in self._samples(name) if sample.startswith(start))

    def written(self, topic: str) -> int:
        """Records that were ever written to a topic."""
        return sum(_ends(self.address, self.prefix + topic))

    def close(self) -> None:
        """Roles first, then the broker."""
        for name in [name for name in self.running if name != "broker"]:
            self._end(name)
        if "broker" in self.running:
            self.stop_broker()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _samples(self, name: str) -> list[tuple[str, float]]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.pages[name]}/metrics", timeout=5) as page:
            lines = [line for line in page.read().decode().splitlines() if line and not line.startswith("#")]
        return [(line.rsplit(" ", 1)[0], float(line.rsplit(" ", 1)[1])) for line in lines]

    def _start(self, name: str, line: Sequence[str], more: dict[str, str] | None = None) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                list(line), env={**self.environment, **(more or {})}, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def _end(self, name: str) -> None:
        child = self.running.pop(name)
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _said(self, name: str, what: str) -> bool:
        text = (self.folder / f"{name}.log").read_text(errors="replace")
        if what not in text and self.running[name].poll() is not None:
            raise RuntimeError(f"{name} ended at its start: {text[-1000:]}")
        return what in text

    def _is_ready(self, name: str) -> bool:
        if self.running[name].poll() is not None:
            raise RuntimeError(f"{name} ended: {(self.folder / f'{name}.log').read_text()[-1000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.pages[name]}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


_CLIENTS: dict[str, Any] = {}


def _ends(address: str, topic: str) -> list[int]:
    """The next offset of each partition, by another client than the one that is measured; it outlives outages."""
    from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]
    from kafka.errors import KafkaError  # type: ignore[import-untyped]

    deadline = time.monotonic() + READY_S
    while True:
        try:
            if address not in _CLIENTS:
                _CLIENTS[address] = KafkaConsumer(bootstrap_servers=address, request_timeout_ms=15_000)
            consumer = _CLIENTS[address]
            numbers = consumer.partitions_for_topic(topic) or set()
            return list(consumer.end_offsets([TopicPartition(topic, n) for n in numbers]).values())
        except (KafkaError, AssertionError):
            if address in _CLIENTS:
                _CLIENTS.pop(address).close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
