"""Live events over real sockets, broker and Redis: one listener reads nothing, the other must not notice."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from kafka_support import shared_kafka
from redis_support import RedisServer
from test_streams_on_kafka import CAMERA, System, until

from serving.roles.names import Names
from serving.testing.gateway_process import Running, Start
from serving.testing.stub_streams import FRAME_NS

pytestmark = [pytest.mark.needs("kafka"), pytest.mark.needs("redis")]
NAMES = Names("deaf.")
BURST, PAUSE_S = 200, 0.4  # a listener's queue holds 256
MOST_BURSTS = 80  # 16 000 events, 10 MB: more than the kernel takes for a listener that does not read


def events(gateway: Running, connection: socket.socket) -> None:
    connection.sendall(f"GET /v1/streams/gate/events HTTP/1.1\r\nHost: {gateway.host}\r\n\r\n".encode())


def counted(gateway: Running, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", gateway.get("/metrics")[1].decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


class Listener(threading.Thread):
    """Reads events until it is closed; `pts` of them in the order of coming."""

    def __init__(self, gateway: Running) -> None:
        super().__init__(daemon=True)
        self._connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=30)
        self._connection.request("GET", "/v1/streams/gate/events")
        self._answer = self._connection.getresponse()
        self.pts: list[int] = []
        self.start()

    def run(self) -> None:
        with suppress(OSError, ValueError, http.client.HTTPException):  # it is closed meanwhile
            while line := self._answer.readline():
                if line.startswith(b"data: "):
                    self.pts.append(json.loads(line[6:])["pts_ns"])

    def close(self) -> None:
        if self._connection.sock is not None:
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self.join(10)
        self._answer.close()
        self._connection.close()


def test_a_listener_that_reads_nothing_is_cut_and_costs_nobody_an_event(
    request: pytest.FixtureRequest, redis_server: RedisServer, start: Start, tmp_path: Path
) -> None:
    kafka = shared_kafka(request).bootstrap
    system = System(kafka, redis_server.url, tmp_path, NAMES)
    gateway = start(
        workers=1, kafka=kafka, kafka_prefix=NAMES.prefix, redis=redis_server.url, sources_allowed_hosts="127.0.0.1",
        sources_secrets="CAM",
    )  # fmt: skip
    until(lambda: gateway.get("/v1/streams")[0] == 200)
    body = json.dumps({"source_id": "gate", "address": CAMERA, "pipelines": ["persons"]})
    with closing(http.client.HTTPConnection(gateway.host, gateway.port, timeout=30)) as client:
        client.request("POST", "/v1/streams", body, {"content-type": "application/json"})
        assert client.getresponse().status == 201

    with ExitStack() as stack:
        deaf = stack.enter_context(socket.socket())
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((gateway.host, gateway.port))
        events(gateway, deaf)
        listener = Listener(gateway)
        stack.callback(listener.close)
        until(lambda: counted(gateway, "lockstep_event_subscribers") == 2)
        written = 0
        while not counted(gateway, 'lockstep_event_cuts_total{reason="stalled"}'):
            assert written < MOST_BURSTS * BURST, "a listener that reads nothing is served for ever"
            system.record("gate", range(written, written + BURST))
            written += BURST
            time.sleep(PAUSE_S)
        until(lambda: len(listener.pts) == written)
        assert listener.pts == [n * FRAME_NS for n in range(written)], "each event once, in the order of PTS"
        assert counted(gateway, 'lockstep_event_cuts_total{reason="overflow"}') == 0
        assert counted(gateway, "lockstep_event_subscribers") == 1
        deaf.settimeout(20)
        last = b""
        with suppress(ConnectionResetError):
            while chunk := deaf.recv(1 << 16):
                last = chunk
        assert last and not last.endswith(b"0\r\n\r\n"), "cut, not ended in good order"
    system.index.close()
