"""F15 with real Tritons: two behind two gateways, all restarted in turn under requests and two streams."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fault_api import Client
from fault_rig import Load
from fault_table import Table
from triton_support import colours_model, picture, png, redness_model, settings_for

from loadtest.servers import free_port
from serving.config import child_environment
from serving.launcher import gateway_process
from serving.testing.gateway_process import Running
from serving.triton.embedded import EmbeddedTriton

pytestmark = [pytest.mark.needs("triton"), pytest.mark.faults, pytest.mark.timeout(900)]
REQUESTS = 10_000
CLIP = Path(__file__).resolve().parents[2] / "models" / "samples" / "pedestrians.mp4"
LOCKSTEP = str(Path(sys.executable).with_name("lockstep"))


def until(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)


def test_f15_two_gateways_and_two_tritons(table: Table, load: Load, tmp_path: Path) -> None:
    """SIGTERM in turn, each ready again before the next; no request fails, no frame is lost."""
    requests = max(1000, round(REQUESTS * min(1.0, load.scale)))
    colours_model(tmp_path / "repository")
    redness_model(tmp_path / "repository")
    with table.row("F15") as figures, tritons(tmp_path) as servers, Gateways(tmp_path, servers) as gateways:
        url = gateways.triton_url
        client = Client(gateways.endpoints, 120.0, "/v1/models/colours/infer", png(picture(255, 0, 0)))
        streams = Streams(tmp_path, url)
        restarts = 0
        try:
            calm = time.time()
            time.sleep(10)
            began = time.time()
            while len(client.calls) < requests:
                for server in servers:
                    restart_triton(server)
                for number in range(len(gateways.endpoints)):
                    gateways.restart(number)
                restarts += 4
            over = time.time()
        finally:
            client.close()
            accounts = streams.close()
        figures.told("Tritons and gateways restarted", str(restarts))
        statuses = Counter(call.status for call in client.calls)
        figures.told("answers by status, two Tritons", str(dict(statuses)))
        figures.equal(f"failed of {len(client.calls)} requests, two Tritons", client.failed(), 0)
        before, during = client.p99((calm, began)), client.p99((began, over))
        figures.told("p99 before, during, two Tritons", f"{before:.1f} ms, {during:.1f} ms")
        figures.at_most("p99 during, of before, two Tritons", during / before, 2.0)
        balances = [account["balances"]["redness"] for account in accounts]
        accepted = sum(balance["accepted"] for balance in balances)
        figures.at_least("frames of two streams", accepted, 100)
        figures.equal("of them with a result", sum(balance["results"] for balance in balances), accepted)
        figures.none("runs that do not balance", [str(a["balances"]) for a in accounts if not a["balanced"]])


@contextmanager
def tritons(folder: Path) -> Iterator[list[EmbeddedTriton]]:
    """Two of one repository, each with files of its own."""
    with ExitStack() as stack:
        made = [
            stack.enter_context(
                EmbeddedTriton(folder / "repository", (), settings_for(folder, cache_dir=folder / f"triton{n}"))
            )
            for n in range(2)
        ]
        for server in made:
            server.wait_ready(60)
        yield made


def restart_triton(server: EmbeddedTriton) -> None:
    """SIGTERM to the process: it finishes what it has, and its supervisor starts another at the same address."""
    known = server.restarts
    os.kill(server.pid, signal.SIGTERM)
    until(lambda: server.restarts > known, "another Triton")
    server.wait_ready(60)


class Gateways:
    """Two, each with both Tritons; at the same addresses after a restart."""

    def __init__(self, folder: Path, servers: list[EmbeddedTriton]) -> None:
        self.triton_url = ",".join(f"grpc://{server.grpc_url}" for server in servers)
        self._folder = folder
        self._stacks: list[ExitStack] = []
        self._ports = [free_port() for _ in range(2)]
        self.endpoints: list[Running] = []

    def __enter__(self) -> Gateways:
        for number in range(2):
            self._stacks.append(ExitStack())
            self.endpoints.append(self._start(number))
        return self

    def __exit__(self, *exception: object) -> None:
        for stack in self._stacks:
            stack.close()

    def restart(self, number: int) -> None:
        """SIGTERM; it drains while the other one serves; another takes its place."""
        self._stacks[number].close()
        assert self.endpoints[number].process.returncode == 0
        self.endpoints[number] = self._start(number)
        until(lambda: self.endpoints[number].get("/readyz")[0] == 200, "ready again")

    def _start(self, number: int) -> Running:
        settings = settings_for(
            self._folder, cache_dir=self._folder / f"gateway{number}", port=self._ports[number], workers=1, drain_s=3.0
        )
        process, _ = self._stacks[number].enter_context(gateway_process(settings, ("colours",), self.triton_url))
        return Running("127.0.0.1", self._ports[number], process, self._folder / "unused.log")


@dataclass
class Streams:
    """`lockstep run` over two sources through both Tritons, again and again until it is closed."""

    folder: Path
    url: str
    accounts: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> list[dict[str, Any]]:
        """The accounts of all sources of all runs, the last one finished."""
        self._over.set()
        self._thread.join(300)
        assert not self.failures, self.failures[0]
        return self.accounts

    def _run(self) -> None:
        command = [LOCKSTEP, "run", f"one={CLIP}", f"two={CLIP}", "--model", "redness", "--triton", self.url, "--json"]
        environment = child_environment(
            LOCKSTEP_REPOSITORY=str(self.folder / "repository"), LOCKSTEP_CACHE_DIR=str(self.folder / "streams")
        )
        while not self._over.is_set():
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
            if done.returncode != 0:
                self.failures.append(done.stderr[-2000:])
                return
            self.accounts += json.loads(done.stdout)["sources"]
