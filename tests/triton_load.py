"""Clients of an embedded Triton that is struck under load, and who looks at its readiness meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np

from serving.adapters.triton import TritonServer
from serving.errors import ServingError
from serving.ports import ServerRequest, ServerTensor
from serving.triton.embedded import EmbeddedTriton

Call = tuple[float, float, str]  # started, seconds, outcome
CLIENTS = 16  # more than ever wait as probes at the same time


def request_for(value: float, model: str = "adder") -> ServerRequest:
    tensors = [ServerTensor(n, np.full((1, 3), v, np.float32)) for n, v in (("a", value), ("b", 1.0))]
    return ServerRequest(model, tensors, outputs=("sum",))


def under_load(triton: EmbeddedTriton, fault: Callable[[], None], seconds: float) -> tuple[float, list[Call]]:
    """Clients that call without pause; the fault comes after a second. When it came, and every call."""

    async def client(server: TritonServer, calls: list[Call], until: float, value: float) -> None:
        while (started := time.monotonic()) < until:
            try:
                reply = await server.infer(request_for(value), 5.0)
                outcome = "ok" if reply.tensors["sum"][0, 0] == value + 1 else "wrong"
            except ServingError as error:
                outcome = error.code
            calls.append((started, time.monotonic() - started, outcome))
            await asyncio.sleep(0.005)

    async def run() -> tuple[float, list[Call]]:
        calls: list[Call] = []
        server = TritonServer(triton.grpc_url, ("adder",))
        until = time.monotonic() + 1.0 + seconds
        tasks = [asyncio.create_task(client(server, calls, until, float(i))) for i in range(CLIENTS)]
        await asyncio.sleep(1.0)
        at = time.monotonic()
        fault()
        await asyncio.gather(*tasks)
        await server.close()
        return at, calls

    return asyncio.run(run())


def check_recovery(at: float, calls: list[Call], back: float) -> None:
    """back: when the models were loaded again, on the same clock."""
    assert not [c for c in calls if c[2] == "wrong"]
    assert {c[2] for c in calls} <= {"ok", "unavailable"}
    assert all(c[2] == "ok" for c in calls if c[0] + c[1] < at)
    first_error = min(started + took for started, took, outcome in calls if outcome != "ok")
    refused = [took for started, took, outcome in calls if outcome == "unavailable" and started > first_error + 1.0]
    fast = sorted(refused)[: max(1, int(0.9 * len(refused)))] if refused else [0.0]
    assert fast[-1] <= 0.1, "with the breaker open, callers are refused within 100 ms (probes excepted)"
    after = [outcome for started, _, outcome in calls if started > back + 0.6]
    assert len(after) > 20
    assert after.count("ok") / len(after) >= 0.99


class Watcher:
    """Polls a model's readiness: when it was lost and when it came back."""

    def __init__(self, triton: EmbeddedTriton, name: str = "adder") -> None:
        self.watch = triton.watch(name)
        self.lost = self.back = 0.0

    def follow(self, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline and not self.back:
            if not self.lost and not self.watch.ready:
                self.lost = time.monotonic()
            if self.lost and self.watch.ready:
                self.back = time.monotonic()
            time.sleep(0.01)
