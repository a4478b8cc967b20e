"""The front of deploy/compose.yaml as a process before a real gateway: limits, buffers, events, gateways that leave."""

from __future__ import annotations

import http.client
import http.server
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.testing.gateway_process import Running, Start, gateways
from tests.integration.deploy.front import checked, front, prepared

pytestmark = pytest.mark.needs("nginx")
INFER = "/v1/models/digits/infer"
JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with gateways(tmp_path_factory.mktemp("gateways")) as run:
        yield run


@pytest.fixture(scope="module")
def gateway(start: Start) -> Running:
    return start(workers=1, streams=True)


@pytest.fixture(scope="module")
def address(gateway: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with front(tmp_path_factory.mktemp("nginx"), [f"{gateway.host}:{gateway.port}"]) as found:
        yield found


def ask(
    address: str, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def test_nginx_takes_the_shipped_files_and_names_a_wrong_line(tmp_path: Path) -> None:
    main = prepared(tmp_path, ["127.0.0.1:8081", "127.0.0.1:8082"])
    assert checked(main) == ""
    main.write_text(main.read_text().replace("client_max_body_size 10m", "client_max_body_sise 10m"))
    assert "client_max_body_sise" in checked(main)


def test_answers_come_through_and_metrics_do_not(address: str) -> None:
    status, body, headers = ask(address, "POST", INFER, b"x" * 3000, Content_Type="image/jpeg", X_Request_ID="mine-1")
    assert status == 200 and json.loads(body)["model"] == "digits"
    assert headers["x-request-id"] == "mine-1" and headers["server"] == "nginx"
    assert ask(address, "GET", "/v1/models")[0] == 200
    assert ask(address, "GET", "/readyz")[0] == 200
    assert ask(address, "GET", "/metrics")[0] == 404


def test_a_body_over_the_limit_ends_at_the_front_as_a_problem(address: str, gateway: Running) -> None:
    assert ask(address, "POST", INFER, b"x" * (10 << 20), Content_Type="image/jpeg")[0] != 413
    before = requests_at(gateway)
    status, body, headers = ask(address, "POST", INFER, b"x" * ((10 << 20) + 1), Content_Type="image/jpeg")
    assert status == 413 and headers["content-type"] == "application/problem+json"
    assert json.loads(body)["code"] == "body_too_large"
    assert requests_at(gateway) == before


REFUSED = {
    "no host": (b"GET /v1/models HTTP/1.1\r\n\r\n", 400, "http_invalid"),
    "TLS to a plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "http_invalid"),
    "a long line": (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400, "http_invalid"),
    "a long header": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 20000 + b"\r\n\r\n", 400, "http_invalid"),
    "an unknown coding": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: br\r\n\r\n", 400, "http_invalid"),
    "another version": (b"GET / HTTP/9.1\r\nHost: x\r\n\r\n", 400, "http_invalid"),
    "a method": (b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method_not_allowed"),
    "metrics": (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not_found"),
    "what is the front's own": (b"GET /front/http_invalid HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not_found"),
}


@pytest.mark.parametrize(("request_bytes", "status", "code"), REFUSED.values(), ids=REFUSED)
def test_what_the_front_refuses_itself_is_a_problem(address: str, request_bytes: bytes, status: int, code: str) -> None:
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), 20) as sock:
        sock.sendall(request_bytes)
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        document = json.loads(answer.read(int(answer.headers["Content-Length"])))
    assert answer.status == document["status"] == status and document["code"] == code and document["request_id"]
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_front_that_cannot_keep_a_body_says_so_as_a_problem(tmp_path: Path) -> None:
    with front(tmp_path, ["127.0.0.1:1"]) as address:
        (tmp_path / "client_body").rmdir()
        status, body, headers = ask(address, "POST", INFER, b"x" * (1 << 20), Content_Type="image/jpeg")
    assert status == 500 and json.loads(body)["code"] == "internal"
    assert headers["content-type"] == "application/problem+json"


def test_a_slow_body_does_not_reach_the_gateway_before_it_is_whole(address: str, gateway: Running) -> None:
    before = requests_at(gateway)
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), 20) as sock:
        head = [
            f"POST {INFER} HTTP/1.1",
            "Host: x",
            "Content-Type: image/jpeg",
            "Content-Length: 6",
            "Connection: close",
        ]
        sock.sendall("\r\n".join([*head, "", ""]).encode())
        for _ in range(5):
            sock.sendall(b"x")
            time.sleep(0.3)
        assert in_flight_at(gateway) <= 1, "only the look at the metrics itself"
        assert requests_at(gateway) == before
        sock.sendall(b"x")
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
    assert requests_at(gateway) == before + 1


def test_events_are_passed_on_at_once(address: str) -> None:
    source = json.loads(ask(address, "GET", "/v1/streams")[1])["streams"][0]["source_id"]
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request("GET", f"/v1/streams/{source}/events")
    answer = connection.getresponse()
    assert answer.status == 200 and answer.getheader("Content-Type", "").startswith("text/event-stream")
    began = time.monotonic()
    assert answer.fp.read1(1) and time.monotonic() - began < 8, "held back until a buffer was full"
    connection.close()


def test_a_gateway_that_ends_is_left_for_the_other_without_a_failed_request(start: Start, tmp_path: Path) -> None:
    first, second = start(workers=1, drain_s=1), start(workers=1, drain_s=1)
    with front(tmp_path, [f"{g.host}:{g.port}" for g in (first, second)]) as address:
        statuses = [ask(address, "POST", INFER, b"x", **{"Content_Type": "image/jpeg"})[0] for _ in range(20)]
        first.process.send_signal(signal.SIGTERM)
        while first.process.poll() is None:
            statuses.append(ask(address, "POST", INFER, b"x", Content_Type="image/jpeg")[0])
        statuses += [ask(address, "POST", INFER, b"x", Content_Type="image/jpeg")[0] for _ in range(20)]
        assert set(statuses) == {200}
        second.process.send_signal(signal.SIGTERM)
        second.process.wait(20)
        status, body, headers = ask(address, "GET", "/v1/models")
        assert status == 503 and json.loads(body)["code"] == "unavailable" and headers["retry-after"] == "1"


def test_grafana_is_asked_under_the_name_the_browser_used(tmp_path: Path) -> None:
    """It compares that name with the Origin of every request that changes something."""
    told: list[dict[str, str]] = []

    class Grafana(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append({name.lower(): value for name, value in self.headers.items()})
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Grafana)
    threading.Thread(target=server.serve_forever, name="grafana", daemon=True).start()
    try:
        with front(tmp_path, ["127.0.0.1:1"], f"127.0.0.1:{server.server_port}") as address:
            assert ask(address, "POST", "/grafana/login", b"x", X_Forwarded_For="10.9.9.9")[0] == 204
            assert ask(address, "POST", "/grafana/login", b"x", Connection="Upgrade", Upgrade="websocket")[0] == 204
    finally:
        server.shutdown()
        server.server_close()
    for headers in told:
        assert (headers["host"], headers["x-forwarded-for"], headers["x-forwarded-proto"]) == (
            address, "127.0.0.1", "http",
        )  # fmt: skip
    assert (told[1]["connection"], told[1]["upgrade"]) == ("upgrade", "websocket")


def requests_at(gateway: Running) -> float:
    """Inference requests the gateway has answered."""
    text = gateway.get("/metrics")[1].decode()
    found = re.findall(r"^lockstep_http_requests_total\{.*infer.* (\S+)$", text, re.M)
    return sum(map(float, found))


def in_flight_at(gateway: Running) -> float:
    text = gateway.get("/metrics")[1].decode()
    return sum(map(float, re.findall(r"^lockstep_http_requests_in_flight(?:\{[^}]*\})? (\S+)", text, re.M)))
