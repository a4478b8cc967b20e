"""Real gateway processes: metrics of several workers, drain, bind rule, what is left behind."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.config import ConfigInvalid, child_environment
from serving.gateway.auth import check_bind, is_loopback

PATH = "/v1/models/digits/infer"


def post(connection: http.client.HTTPConnection, path: str = PATH, **headers: str) -> http.client.HTTPResponse:
    """One inference; the answer is read to its end."""
    connection.request("POST", path, b"x" * 5000, {"Content-Type": "image/jpeg", **headers})
    answer = connection.getresponse()
    answer.read()
    return answer


def test_metrics_of_all_workers_add_up_exactly(start: Callable[..., Any]) -> None:
    gateway = start(workers=2)

    def send(count: int) -> None:
        for _ in range(count):
            connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=10)  # may go to either worker
            assert post(connection).status == 200
            connection.close()

    threads = [threading.Thread(target=send, args=(100,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = gateway.get("/metrics")[1].decode()
    label = 'method="POST",route="/v1/models/{name}/infer",status="200"'
    assert f"lockstep_http_requests_total{{{label}}} 400.0" in text
    assert 'lockstep_inference_requests_total{model="digits",outcome="ok"} 400.0' in text
    assert 'lockstep_http_request_seconds_count{route="/v1/models/{name}/infer"} 400.0' in text
    (total,) = re.findall(r"^lockstep_http_body_bytes_total (\S+)$", text, re.MULTILINE)
    assert float(total) == 400 * 5000
    assert len(re.findall(r"Booting worker", gateway.log.read_text())) == 2
    assert "pid=" not in text


def test_counts_survive_a_killed_worker(start: Callable[..., Any]) -> None:
    gateway = start(workers=1)
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=10)
    for _ in range(5):
        assert post(connection).status == 200
    connection.close()
    (worker,) = subprocess.run(
        ["pgrep", "-P", str(gateway.process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    subprocess.run(["kill", "-KILL", worker], check=True)
    deadline = time.monotonic() + 15
    while "Booting" not in gateway.log.read_text().split("SIGKILL", 1)[-1] and time.monotonic() < deadline:
        time.sleep(0.05)
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=10)
    assert post(connection).status == 200
    connection.close()
    assert 'outcome="ok"} 6.0' in gateway.get("/metrics")[1].decode()


class _Client(threading.Thread):
    """Sends one request after the other on kept connections until readiness fails or the address is gone."""

    def __init__(self, gateway: Any) -> None:
        super().__init__()
        self.gateway = gateway
        self.statuses: list[int] = []
        self.failures: list[str] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection(self.gateway.host, self.gateway.port, timeout=20)
        while True:
            try:
                connection.connect() if connection.sock is None else None
            except ConnectionRefusedError:
                return  # nobody listens any more: no request was made
            try:
                self.statuses.append(post(connection).status)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                return


def test_sigterm_drains_without_a_failed_request(start: Callable[..., Any]) -> None:
    gateway = start(delay=0.05, workers=2, drain_s=1.5, max_in_flight=64)
    clients = [_Client(gateway) for _ in range(8)]
    for client in clients:
        client.start()
    time.sleep(0.5)
    gateway.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    not_ready_after = None
    while time.monotonic() - began < 1.0:
        try:
            if gateway.get("/readyz")[0] == 503:
                not_ready_after = time.monotonic() - began
                break
        except OSError as error:
            pytest.fail(f"closed before the drain was over: {error}")
    assert not_ready_after is not None and not_ready_after < 1.0
    for client in clients:
        client.join(20)
    assert gateway.process.wait(20) == 0
    assert time.monotonic() - began < 25
    assert [c.failures for c in clients] == [[]] * 8
    statuses = [status for client in clients for status in client.statuses]
    assert set(statuses) == {200} and len(statuses) > 100
    log = gateway.log.read_text()
    assert not [word for word in ("Traceback", "cannot be filtered", "Error while closing") if word in log]


def test_a_long_request_in_flight_at_sigterm_is_answered(start: Callable[..., Any]) -> None:
    gateway = start(delay=2.0, workers=1, drain_s=0.2)
    statuses: list[int] = []

    def send() -> None:
        connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=20)
        statuses.append(post(connection).status)
        connection.close()

    thread = threading.Thread(target=send)
    thread.start()
    time.sleep(0.5)
    gateway.process.send_signal(signal.SIGTERM)
    thread.join(20)
    assert statuses == [200] and gateway.process.wait(20) == 0


def test_no_metric_files_stay_behind(start: Callable[..., Any]) -> None:
    gateway = start(workers=1)
    folder = _metrics_folder(gateway.process.pid)
    assert folder.is_dir()
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(20) == 0
    assert not folder.exists()


def test_a_port_that_is_taken_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        setting = f"port={taken.getsockname()[1]}"
        command = [sys.executable, "-m", "serving.testing.stub_gateway", str(tmp_path / "models"), "--set", setting]
        environment = child_environment(TMPDIR=str(tmp_path))
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 1 and "in use" in done.stderr
    assert not list(tmp_path.glob("lockstep-metrics-*"))


def _metrics_folder(parent: int) -> Path:
    worker = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0]
    found = re.search(r"(/\S*lockstep-metrics-\w+)/", Path(f"/proc/{worker}/maps").read_text())
    assert found is not None
    return Path(found[1])


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1", "no.such.host.invalid"])
def test_any_address_but_loopback_needs_a_word(host: str) -> None:
    with pytest.raises(ConfigInvalid, match="allow-unauthenticated"):
        check_bind(host, allow_unauthenticated=False)
    check_bind(host, allow_unauthenticated=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_word(host: str) -> None:
    assert is_loopback(host)
    check_bind(host, allow_unauthenticated=False)


def test_main_refuses_the_address_before_anything_listens(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serving.testing.stub_gateway", str(tmp_path), "--set", "host=0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0 and "allow-unauthenticated" in done.stderr and "Listening" not in done.stderr
