"""S9, the quick part: hundreds of connections that send a byte a second do not disturb a caller who does not, and an
answer that nobody reads holds no connection."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import selectors
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from uvicorn.config import Config
from uvicorn.server import ServerState

from serving.gateway import protocol
from serving.testing.gateway_process import Running, gateways

CONNECTIONS = 300
SECONDS = 9.0
BODY = b"POST /v1/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 5000\r\n\r\n"


def test_s9_slow_headers_and_bodies_are_cut_and_others_served(tmp_path: Path) -> None:
    with gateways(tmp_path) as start:
        gateway = start(workers=2)
        calm = sorted(_legitimate(gateway, None))
        slow = _SlowClients(gateway)
        under_attack = sorted(_legitimate(gateway, slow))
        slow.finish()
        assert slow.longest_s <= 10.0
        assert slow.cut == CONNECTIONS
    assert len(under_attack) >= 50
    p99 = under_attack[int(len(under_attack) * 0.99)]
    # 50 ms: what another process on the same cores can take from either measurement
    assert p99 <= 2 * calm[int(len(calm) * 0.99)] + 0.05, (p99, calm[-5:])


def _legitimate(gateway: Running, slow: _SlowClients | None) -> list[float]:
    took = []
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=10)
    end = time.monotonic() + (SECONDS if slow else 3.0)
    while time.monotonic() < end:
        if slow:
            slow.tick()
        began = time.monotonic()
        connection.request("POST", "/v1/models/digits/infer", b"x" * 20_000, {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        answer.read()
        took.append(time.monotonic() - began)
        assert answer.status == 200
        time.sleep(0.02)
    connection.close()
    return took


class _SlowClients:
    """Half of them never end their headers, half their body; each sends one byte a second."""

    def __init__(self, gateway: Running) -> None:
        self.cut = 0
        self.longest_s = 0.0
        self._selector = selectors.DefaultSelector()
        self._born = time.monotonic()
        self._sent_at = self._born
        self._open: set[socket.socket] = set()
        for number in range(CONNECTIONS):
            sock = gateway.connect()
            sock.sendall(BODY if number % 2 else b"G")
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ)
            self._open.add(sock)

    def tick(self) -> None:
        for key, _ in self._selector.select(0):
            assert isinstance(key.fileobj, socket.socket)
            self._read(key.fileobj)
        if time.monotonic() - self._sent_at >= 1.0:
            self._sent_at = time.monotonic()
            for sock in tuple(self._open):
                try:
                    sock.send(b"x")
                except OSError:
                    self._gone(sock)

    def finish(self) -> None:
        end = time.monotonic() + 5.0
        while self._open and time.monotonic() < end:
            self.tick()
            time.sleep(0.02)
        for sock in tuple(self._open):
            sock.close()
        self._selector.close()

    def _read(self, sock: socket.socket) -> None:
        try:
            if not sock.recv(65536):
                self._gone(sock)
        except BlockingIOError:
            return
        except OSError:
            self._gone(sock)

    def _gone(self, sock: socket.socket) -> None:
        if sock in self._open:
            self._open.discard(sock)
            self._selector.unregister(sock)
            sock.close()
            self.cut += 1
            self.longest_s = max(self.longest_s, time.monotonic() - self._born)


ANSWER = b"x" * 8_000_000
UNSENT_S = 0.3
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
UNREAD = {
    "kept connection": GET,
    "closed connection": GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
    "next request at once": GET * 3,
}


@pytest.mark.parametrize("sent", UNREAD.values(), ids=UNREAD)
def test_s9_an_answer_that_nobody_reads_holds_no_connection(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    async def run() -> None:
        async with _answering(monkeypatch) as (address, connections):
            with _client(address) as sock:
                await asyncio.get_running_loop().sock_sendall(sock, sent)
                await _until(lambda: bool(connections))
                await _until(lambda: not connections)

    uvloop.run(run())


def test_s9_an_answer_that_is_read_slowly_comes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with _answering(monkeypatch) as (address, _):
            with _client(address) as sock:
                await loop.sock_sendall(sock, UNREAD["closed connection"])
                began, came = loop.time(), 0
                while chunk := await loop.sock_recv(sock, 200_000):
                    came += len(chunk)
                    await asyncio.sleep(0.03)
                assert came > len(ANSWER) and loop.time() - began > 3 * UNSENT_S

    uvloop.run(run())


@contextlib.asynccontextmanager
async def _answering(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Any, set[Any]]]:
    """An app of one large answer behind the gateway's own protocol: its address, its open connections."""
    monkeypatch.setattr(protocol, "UNSENT_S", UNSENT_S)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"%d" % len(ANSWER))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": ANSWER})

    config = Config(app, lifespan="off", timeout_keep_alive=UNSENT_S, log_level="critical")  # type: ignore[arg-type]
    state = ServerState()
    made = lambda: protocol.GatewayProtocol(config, state, {})  # noqa: E731
    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname(), state.connections
    finally:
        for one in tuple(state.connections):
            one.transport.abort()
        server.close()
        await server.wait_closed()


def _client(address: Any) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    sock.connect(address)
    sock.setblocking(False)
    return sock


async def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "the connection is still there"
        await asyncio.sleep(0.02)
