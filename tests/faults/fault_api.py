"""Requests to a real gateway beside the streams: what clients of REST notice of a fault."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fault_table import percentile

from serving.testing.gateway_process import Running, gateways

PATH = "/v1/models/digits/infer"
LOOK_S = 0.25


@dataclass(frozen=True, slots=True)
class Call:
    """One request. at: seconds since 1970, when it began. status 0: no answer."""

    at: float
    seconds: float
    status: int


class Client:
    """Asks `rate` times a second on one connection after the other; leaves an endpoint whose /readyz is not 200.

    As a load balancer does: a connection that is refused, or closed before a byte of the answer, is tried once at the
    next endpoint (requests are idempotent).
    """

    def __init__(self, endpoints: Sequence[Running], rate: float, path: str = PATH, body: bytes = b"x" * 2000) -> None:
        self.calls: list[Call] = []
        self._endpoints, self._rate = endpoints, rate
        self._path, self._body = path, body
        self._good = [True] * len(endpoints)
        self._connections: dict[int, http.client.HTTPConnection] = {}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=t, daemon=True) for t in (self._look, self._ask)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop asking."""
        self._over.set()
        for thread in self._threads:
            thread.join(30)
        for connection in self._connections.values():
            connection.close()

    def ready(self) -> bool:
        """Whether every endpoint says that it serves."""
        return all(_ready(endpoint) for endpoint in self._endpoints)

    def failed(self, since: float = 0.0) -> int:
        return sum(call.status != 200 for call in self.calls if call.at >= since)

    def p99(self, *times: tuple[float, float]) -> float:
        """Milliseconds, of the calls that began within one of these (since, until)."""
        told = [call.seconds for call in self.calls if any(since <= call.at <= until for since, until in times)]
        return 1e3 * percentile(told, 0.99)

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            for number, endpoint in enumerate(self._endpoints):
                self._good[number] = _ready(endpoint)

    def _ask(self) -> None:
        due, turn = time.monotonic(), 0
        while not self._over.is_set():
            good = [n for n in range(len(self._endpoints)) if self._good[n]] or list(range(len(self._endpoints)))
            began = time.time()
            status = self._one(good[turn % len(good)])
            if status == 0 and len(self._endpoints) > 1:
                status = self._one(good[(turn + 1) % len(good)])
            self.calls.append(Call(began, time.time() - began, status))
            turn += 1
            due = max(due + 1 / self._rate, time.monotonic())
            self._over.wait(max(0.0, due - time.monotonic()))

    def _one(self, number: int) -> int:
        endpoint = self._endpoints[number]
        connection = self._connections.setdefault(
            number, http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=10)
        )
        try:
            connection.request("POST", self._path, self._body, {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            answer.read()
            if answer.will_close:
                connection.close()
        except (OSError, http.client.HTTPException):
            connection.close()
            return 0
        return answer.status


def _ready(endpoint: Running) -> bool:
    try:
        return endpoint.get("/readyz")[0] == 200
    except OSError:
        return False


@contextmanager
def clients(folder: Path, rate: float, **settings: str) -> Iterator[Client]:
    """A gateway over a stub server, and a client that asks it; ended with the block. settings: of the gateway."""
    folder.mkdir(parents=True, exist_ok=True)
    with gateways(folder) as start:
        client = Client([start(workers=1, **settings)], rate)
        try:
            yield client
        finally:
            client.close()
