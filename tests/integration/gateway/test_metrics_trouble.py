"""Metrics in trouble: a full disk, workers that restart under a scraper, scrapers that do not read. Serving goes on."""

from __future__ import annotations

import http.client
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.testing.gateway_process import Running, Start

PATH, JPEG = "/v1/models/digits/infer", {"Content-Type": "image/jpeg"}
COUNTED = re.compile(r'^lockstep_inference_requests_total\{model="digits",outcome="ok"\} (\S+)$', re.MULTILINE)
DRIBBLE_S = 3.0


def infer(gateway: Running) -> int:
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=10)
    try:
        connection.request("POST", PATH, b"x" * 5000, JPEG)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def workers_of(gateway: Running) -> set[str]:
    found = subprocess.run(["pgrep", "-P", str(gateway.process.pid)], capture_output=True, text=True, check=True)
    return set(found.stdout.split())


def ready(gateway: Running) -> bool:
    try:
        return gateway.get("/readyz")[0] == 200
    except OSError:  # nobody takes the connection yet
        return False


def until(condition: Callable[[], bool], what: str, patience_s: float = 60.0) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of its own for temporary files, with less room than a worker's metrics take."""
    folder = tmp_path / "full"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "lockstep-test", str(folder)], check=True)
    monkeypatch.setenv("TMPDIR", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.needs("mount")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_costs_the_metrics_and_no_request(full: Path, start: Start, workers: int) -> None:
    gateway = start(workers=workers)
    until(lambda: len(workers_of(gateway)) == workers, "all workers")
    at_work = workers_of(gateway)
    assert [infer(gateway) for _ in range(20)] == [200] * 20
    status, page = gateway.get("/metrics")
    if workers == 1:
        assert status == 200 and COUNTED.findall(page.decode()) == ["20.0"]
    else:
        assert status == 503 and b"had no room" in page
    assert workers_of(gateway) == at_work, gateway.log.read_text()
    told = "no room for the metrics of a worker: No space left on device"
    until(lambda: gateway.log.read_text().count(told) == workers, f"{told}, once a worker")
    assert not list(full.rglob("*.part")) and not list(full.rglob("*.db"))


def test_files_of_metrics_come_whole_or_not_at_all(tmp_path: Path) -> None:
    """The room is taken for a worker's first files; here the third is one too many."""
    code = (
        "import sys; from pathlib import Path; from serving.metrics import Metrics, reserve_room\n"
        "print(reserve_room(Path(sys.argv[1])))\n"
        "metrics = Metrics(); metrics.inc('lockstep_http_body_bytes_total', 7)\n"
        "print('lockstep_http_body_bytes_total 7.0' in metrics.exposition().decode())"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    for most, files in ((100 << 10, 0), (10 << 20, 5)):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=True,
            preexec_fn=lambda most=most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
        )  # fmt: skip
        told, counted = done.stdout.splitlines()
        assert counted == "True" and len(list(tmp_path.iterdir())) == files, done.stdout
        assert told == ("" if files else f"{tmp_path}: no room for the metrics of a worker: File too large")


def test_a_scraper_sees_whole_pages_and_no_count_that_falls_while_workers_restart(start: Start) -> None:
    gateway = start(workers=2)
    pages: list[tuple[int, bytes]] = []
    over = threading.Event()

    def scrape() -> None:
        while not over.is_set():
            try:
                pages.append(gateway.get("/metrics"))
            except (OSError, http.client.HTTPException):  # a killed worker takes its connections with it
                time.sleep(0.01)

    scraper = threading.Thread(target=scrape)
    scraper.start()
    try:
        for number in (signal.SIGHUP, signal.SIGKILL):
            assert infer(gateway) == 200
            before = workers_of(gateway)
            if number is signal.SIGHUP:  # all of them, in good order
                gateway.process.send_signal(number)
                until(lambda before=before: not before & workers_of(gateway), "new workers")  # type: ignore[misc]
            else:
                subprocess.run(["kill", "-KILL", *before], check=True)
            until(lambda: len(workers_of(gateway)) == 2 and ready(gateway), "ready again")
    finally:
        over.set()
        scraper.join()
    pages.append(gateway.get("/metrics"))
    assert len(pages) > 1 and {status for status, _ in pages} == {200}, [(s, p[:200]) for s, p in pages if s != 200]
    counts = [float(COUNTED.findall(page.decode())[0]) for _, page in pages]
    assert counts == sorted(counts) and counts[-1] == 2


def test_scrapers_that_do_not_read_hold_up_nobody(start: Start) -> None:
    gateway = start(workers=1)
    deaf = [gateway.connect() for _ in range(30)]
    slow = gateway.connect()
    try:
        for connection in deaf:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 5)
        until_s = time.monotonic() + DRIBBLE_S
        for letter in b"GET /metrics HTTP/1.1\r\nHost: somebody-who-is-slow\r\n\r\n":
            slow.sendall(bytes([letter]))
            assert infer(gateway) == 200
            assert gateway.get("/metrics")[0] == 200
            if time.monotonic() > until_s:
                break
    finally:
        for connection in (*deaf, slow):
            connection.close()
    assert infer(gateway) == 200
