"""Limits on real sockets: slow, large, malformed and too many requests; deadlines."""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.testing.gateway_process import problem_of, read_all

HEAD = b"POST /v1/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"


def drip(sock: socket.socket, data: bytes, every: float) -> None:
    """Send one byte at a time until the other side has closed or all is sent."""
    for byte in data:
        try:
            sock.sendall(bytes([byte]))
        except OSError:
            return
        time.sleep(every)


def test_a_slow_body_is_cut_with_408(shared: Callable[..., Any]) -> None:
    gateway = shared(workers=1, body_timeout_s=1.0, max_body_bytes=100_000)
    with gateway.connect() as sock:
        sock.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        began = time.monotonic()
        thread = threading.Thread(target=drip, args=(sock, b"x" * 100, 0.1))
        thread.start()
        raw = read_all(sock)
        took = time.monotonic() - began
        thread.join()
    assert problem_of(raw)["code"] == "body_timeout" and raw.startswith(b"HTTP/1.1 408")
    assert b"\r\nconnection: close\r\n" in raw
    assert 0.9 < took < 4.0


def test_a_body_below_the_least_pace_is_cut(shared: Callable[..., Any]) -> None:
    gateway = shared(workers=1, body_min_rate=1000)
    with gateway.connect() as sock:
        sock.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        began = time.monotonic()
        raw = read_all(sock)
        took = time.monotonic() - began
    assert problem_of(raw)["code"] == "body_timeout"
    assert 4.5 < took < 8.0


def test_slow_headers_are_cut(shared: Callable[..., Any]) -> None:
    gateway = shared(workers=1)
    with gateway.connect() as silent, gateway.connect() as slow, gateway.connect() as blank:
        began = time.monotonic()
        threads = [
            threading.Thread(target=drip, args=(slow, HEAD * 2, 0.2)),
            threading.Thread(target=drip, args=(blank, b"\r\n" * 100, 0.2)),
        ]
        for thread in threads:
            thread.start()
        answers = [read_all(sock) for sock in (silent, slow, blank)]
        took = time.monotonic() - began
        for thread in threads:
            thread.join()
    assert answers[0] == b"" and answers[1].startswith(b"HTTP/1.1 408") and took < 8.0


def test_blank_lines_after_an_answer_keep_nothing_open(shared: Callable[..., Any]) -> None:
    gateway = shared(workers=1)
    with gateway.connect() as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        began = time.monotonic()
        thread = threading.Thread(target=drip, args=(sock, b"\r\n" * 100, 0.1))
        thread.start()
        read_all(sock)
        took = time.monotonic() - began
        thread.join()
    assert took < 8.0


@pytest.mark.parametrize("chunked", [False, True])
def test_an_oversized_body_is_told_while_it_is_still_being_sent(shared: Callable[..., Any], chunked: bool) -> None:
    gateway = shared(workers=1, body_timeout_s=1.0, max_body_bytes=100_000)
    with gateway.connect() as sock:
        size = 3_000_000
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
        body = (b"%x\r\n" % 1000 + b"x" * 1000 + b"\r\n") * (size // 1000) + b"0\r\n\r\n" if chunked else b"x" * size
        sock.sendall(HEAD + framing + b"\r\n\r\n")
        sock.sendall(body)  # all of it, before one byte of the answer is read: no reset may come
        raw = read_all(sock)
    assert raw.startswith(b"HTTP/1.1 413") and problem_of(raw)["code"] == "body_too_large"


def test_an_oversized_body_behind_expect_100_is_never_asked_for(shared: Callable[..., Any]) -> None:
    gateway = shared(workers=1, body_timeout_s=1.0, max_body_bytes=100_000)
    raw = gateway.exchange(HEAD + b"Expect: 100-continue\r\nContent-Length: 200000\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 413") and b"100 Continue" not in raw


def test_a_body_that_expects_100_is_taken(shared: Callable[..., Any]) -> None:
    gateway = shared(workers=1)
    with gateway.connect() as sock:
        sock.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 3\r\nConnection: close\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 100 Continue")
        sock.sendall(b"abc")
        assert read_all(sock).startswith(b"HTTP/1.1 200")


SMUGGLING = {
    "length and chunked": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "length list": b"Content-Length: 4, 5\r\n\r\nabcde",
    "signed length": b"Content-Length: +4\r\n\r\nabcd",
    "hex length": b"Content-Length: 0x4\r\n\r\nabcd",
    "negative length": b"Content-Length: -1\r\n\r\n",
    "chunked is not last": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "space before colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "tab in name": b"Transfer\tEncoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk size": b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "signed chunk size": b"Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
    "chunk longer than said": b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
    "folded header": b"X-A: b\r\n c\r\nContent-Length: 3\r\n\r\nabc",
    "null in header": b"X-A: b\x00c\r\nContent-Length: 3\r\n\r\nabc",
    "bare line feed after chunk": b"Transfer-Encoding: chunked\r\n\r\n1\r\na\n0\r\n\r\n",
}


def test_framing_tricks_are_400_and_closed(shared: Callable[..., Any]) -> None:
    gateway = shared(workers=1)
    follower = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    wrong = {}
    for name, tail in SMUGGLING.items():
        raw = gateway.exchange(HEAD + tail + follower)
        if not (raw.startswith(b"HTTP/1.1 400") and raw.count(b"HTTP/1.1 ") == 1):
            wrong[name] = raw[:120]
        else:
            assert problem_of(raw)["code"] in ("http_invalid", "body_invalid"), name
    assert not wrong


def test_malformed_requests_and_endless_headers(shared: Callable[..., Any]) -> None:
    gateway = shared(workers=1)
    for data in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"x" * 200_000,
        b"GET /" + b"x" * 200_000,
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 40_000,
    ):
        try:
            raw = gateway.exchange(data)
        except ConnectionResetError:
            assert len(data) > 100_000  # closed while the flood was still coming: fair
            continue
        assert raw.startswith(b"HTTP/1.1 400") and problem_of(raw)["code"] == "http_invalid", (data[:40], raw[:100])
    assert gateway.get("/healthz")[0] == 200
    assert "Traceback" not in gateway.log.read_text()


def test_a_million_chunks_cost_no_memory(shared: Callable[..., Any]) -> None:
    gateway = shared(workers=1)
    head = HEAD.replace(b"image/jpeg", b"text/plain") + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"1\r\na\r\n" * 1_000_000 + b"0\r\n\r\n"
    used = []
    for _ in range(6):
        assert gateway.exchange(head + body).startswith(b"HTTP/1.1 415")
        used.append(_resident_kib(gateway))
    assert used[-1] - used[1] < 1024, used


def _resident_kib(gateway: Any) -> int:
    parent = gateway.process.pid
    (worker,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{worker}/status").read_text())
    assert found is not None
    return int(found[1])


def _post(gateway: Any, headers: dict[str, str] | None = None) -> tuple[http.client.HTTPResponse, bytes, float]:
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=20)
    connection.connect()
    began = time.monotonic()
    connection.request(
        "POST", "/v1/models/digits/infer", b"x" * 50_000, {"Content-Type": "image/jpeg", **(headers or {})}
    )
    answer = connection.getresponse()
    body = answer.read()
    took = time.monotonic() - began
    connection.close()
    return answer, body, took


def test_overload_is_429_within_100_ms(start: Callable[..., Any]) -> None:
    gateway = start(delay=1.5, workers=1, max_in_flight=4)
    threads = [threading.Thread(target=_post, args=(gateway,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.4)
    answers = [_post(gateway) for _ in range(20)]
    for thread in threads:
        thread.join()
    assert {answer.status for answer, _, _ in answers} == {429}
    assert all(answer.getheader("Retry-After") == "1" for answer, _, _ in answers)
    took = sorted(seconds for _, _, seconds in answers)
    assert took[10] < 0.1 and took[-1] < 0.5, took
    assert _post(gateway)[0].status == 200
    assert 'lockstep_shed_total{reason="in_flight"} 20.0' in gateway.get("/metrics")[1].decode()


def test_a_kept_connection_survives_a_429(shared: Callable[..., Any]) -> None:
    gateway = shared(delay=1.0, workers=1, max_in_flight=1)
    thread = threading.Thread(target=_post, args=(gateway,))
    thread.start()
    time.sleep(0.3)
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=20)
    statuses = []
    connection.connect()
    first = connection.sock
    for _ in range(3):
        connection.request("POST", "/v1/models/digits/infer", b"x" * 50_000, {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
    assert statuses == [429] * 3 and connection.sock is first
    connection.close()
    thread.join()


@pytest.mark.parametrize(("header", "least", "most"), [("200", 0.19, 1.0), ("1", 0.0, 0.5)])
def test_a_deadline_is_504_in_time(shared: Callable[..., Any], header: str, least: float, most: float) -> None:
    gateway = shared(delay=5.0, workers=1, request_timeout_ms=300)
    answer, body, took = _post(gateway, {"X-Request-Timeout-Ms": header})
    assert answer.status == 504 and b'"deadline_exceeded"' in body
    assert least <= took < most


def test_a_deadline_covers_the_body(shared: Callable[..., Any]) -> None:
    gateway = shared(workers=1)
    began = time.monotonic()
    raw = gateway.exchange(HEAD + b"X-Request-Timeout-Ms: 300\r\nContent-Length: 100\r\n\r\nabc")
    assert raw.startswith(b"HTTP/1.1 504") and time.monotonic() - began < 3.0


def test_the_default_deadline(shared: Callable[..., Any]) -> None:
    gateway = shared(delay=5.0, workers=1, request_timeout_ms=300)
    answer, _, took = _post(gateway)
    assert answer.status == 504 and took < 1.5


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "60001", "x", "", "1" * 30])
def test_a_bad_deadline_header(shared: Callable[..., Any], value: str) -> None:
    gateway = shared(workers=1)
    answer, body, _ = _post(gateway, {"X-Request-Timeout-Ms": value})
    assert answer.status == 422 and b'"parameter_invalid"' in body
