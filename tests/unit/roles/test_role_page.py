"""healthz, readyz and metrics of a role."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.cli.role_start import checked
from serving.config import ConfigInvalid, load_settings
from serving.errors import Unavailable
from serving.frames import DeadReason
from serving.machine import MachineWatch
from serving.metrics import OTHER
from serving.ports_log import Lost, Polled, TopicPartition
from serving.roles.monitor import SOURCES_MOST, STUCK_NS, RoleMonitor, RoleState
from serving.roles.names import Names
from serving.roles.page import role_page
from serving.testing.hand_clock import HandClock
from serving.testing.memory_log import MemoryLog


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def monitor(clock: HandClock) -> RoleMonitor:
    return RoleMonitor("worker", clock, "acme.")


@pytest.fixture
def port(monitor: RoleMonitor, capsys: pytest.CaptureFixture[str]) -> Iterator[int]:
    with role_page(monitor, 0) as port:
        said = capsys.readouterr().err
        assert said == f"worker: http://127.0.0.1:{port}/ has healthz, readyz, metrics\n"
        yield port


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


def test_ready_is_said_with_its_reasons(port: int, monitor: RoleMonitor) -> None:
    status, text = get(port, "/readyz")
    assert status == 503 and json.loads(text)["reasons"] == ["worker: starting"]
    monitor.partitions(0)
    status, text = get(port, "/readyz")
    assert status == 200 and json.loads(text) == {"role": "worker", "state": "idle", "ready": True, "reasons": []}
    monitor.partitions(4)
    monitor.wrong("model person", "unavailable: nobody answers")
    status, text = get(port, "/readyz")
    assert (status, json.loads(text)["reasons"]) == (503, ["model person: unavailable: nobody answers"])
    monitor.right("model person")
    assert get(port, "/readyz")[0] == 200
    monitor.state(RoleState.DRAINING)
    monitor.partitions(4)
    assert json.loads(get(port, "/readyz")[1])["reasons"] == ["worker: draining"]


def test_alive_means_that_the_loop_turns(port: int, monitor: RoleMonitor, clock: HandClock) -> None:
    monitor.wrong("log", "log_unavailable: no broker answers")
    assert get(port, "/healthz")[0] == 200, "whether it can work is another question"
    clock.advance(STUCK_NS + 1)
    assert get(port, "/healthz")[0] == 503
    monitor.turned()
    assert get(port, "/healthz")[0] == 200
    assert get(port, "/elsewhere")[0] == 404


def test_metrics_are_bounded_and_short(port: int, monitor: RoleMonitor, capsys: pytest.CaptureFixture[str]) -> None:
    place = TopicPartition("acme.frames", 3)
    monitor.polled(Polled(lost=(Lost(place, 5, 9),)))
    assert "acme.frames/3: offsets 5 to 9 were deleted before they were read" in capsys.readouterr().err
    monitor.rebalanced("assigned", [place, TopicPartition("acme.results", 3)])
    for number in range(SOURCES_MOST + 50):
        monitor.metrics.set("lockstep_worker_queue_frames", 1, source=f"s{number}")
    text = get(port, "/metrics")[1]
    assert 'lockstep_role_deleted_unread_total{topic="frames"} 5.0' in text
    assert 'lockstep_role_rebalances_total{change="assigned"} 2.0' in text
    assert text.count("lockstep_worker_queue_frames{") == SOURCES_MOST + 1 and f'source="{OTHER}"' in text


def test_a_scraper_that_has_gone_leaves_no_traceback(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", port)) as asked:
            asked.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed by a reset
            asked.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert get(port, "/healthz")[0] == 200
    assert "Traceback" not in capsys.readouterr().err


def test_what_has_not_happened_stands_at_0_and_what_is_not_known_is_not_told(clock: HandClock) -> None:
    page = {role: _values(RoleMonitor(role, clock).metrics.exposition().decode()) for role in ("worker", "accountant")}
    for reason in DeadReason:
        assert page["worker"][f'lockstep_role_dead_letters_total{{reason="{reason.value}"}}'] == 0
    assert page["accountant"]['lockstep_role_refused_total{topic="results"}'] == 0
    assert 'lockstep_role_refused_total{topic="results"}' not in page["worker"], "it does not read them"
    for values in page.values():
        assert values["lockstep_role_commits_refused_total"] == values["lockstep_role_ready"] == 0
        assert "lockstep_index_up" not in values, "who does not write the index does not say that it is down"


def test_a_topic_that_is_gone_is_a_reason(clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.roles.page.LOG_LOOK_S", 0.01)
    monitor, log = RoleMonitor("mixer", clock), MemoryLog({})
    monitor.partitions(1)
    with role_page(monitor, 0, log, Names()):
        deadline = time.monotonic() + 10
        while not monitor.not_ready() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert monitor.not_ready()[0].startswith("log: topic_unknown")


def test_a_taken_port_is_refused(monitor: RoleMonitor, port: int) -> None:
    with pytest.raises(Unavailable, match=f"--metrics-port {port}"), role_page(monitor, port):
        pass


def test_metrics_tell_memory_cpu_and_disks_of_the_role_and_its_children(tmp_path: Path, clock: HandClock) -> None:
    monitor = RoleMonitor("ingest", clock)
    machine = MachineWatch(monitor.metrics, {"mixed": tmp_path / "not" / "made yet"})
    with role_page(monitor, 0, machine=machine) as port:
        alone = _values(get(port, "/metrics")[1])
        child = subprocess.Popen([sys.executable, "-c", "x = bytearray(64 << 20); input()"], stdin=subprocess.PIPE)
        try:
            deadline = time.monotonic() + 30
            while _values(get(port, "/metrics")[1])["lockstep_process_resident_bytes"] < (
                alone["lockstep_process_resident_bytes"] + (60 << 20)
            ):
                assert time.monotonic() < deadline, "a child's memory counts with its parent"
                time.sleep(0.05)
        finally:
            child.communicate()
        after = _values(get(port, "/metrics")[1])
    assert after["lockstep_process_cpu_seconds_total"] >= alone["lockstep_process_cpu_seconds_total"] > 0
    assert after['lockstep_machine_disk_bytes{kind="total",place="mixed"}'] == shutil.disk_usage(tmp_path).total
    available, total = (after[f'lockstep_machine_memory_bytes{{kind="{kind}"}}'] for kind in ("available", "total"))
    assert 0 < available < total and 0 <= after["lockstep_machine_cpu_busy"] <= 1
    assert 0 < after["lockstep_process_started_seconds"] <= time.time()


def _values(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


def test_the_page_binds_where_it_is_told_and_others_need_a_word(clock: HandClock) -> None:
    monitor = RoleMonitor("worker", clock)
    with role_page(monitor, 0, host="127.0.0.2") as port:
        assert urllib.request.urlopen(f"http://127.0.0.2:{port}/healthz", timeout=5).status == 200
    settings = load_settings(None, {}, kafka="127.0.0.1:1", role_metrics_host="0.0.0.0").settings
    with pytest.raises(ConfigInvalid, match="role_metrics_host 0.0.0.0.*allow-unauthenticated"):
        checked(settings)
