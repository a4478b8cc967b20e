"""`lockstep up`: the whole distributed system on this machine, seen from outside; and nothing of it left."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from up_support import Up, numbers

from deploy.embedded.samples import CODED_FPS, CODED_FRAMES

pytestmark = [pytest.mark.needs("kafka"), pytest.mark.needs("redis"), pytest.mark.needs("triton")]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    made = Up(tmp_path)
    yield made
    made.kill()


def test_up_shows_both_sources_balances_and_leaves_nothing(up: Up) -> None:
    names = {row["what"] for row in up.document["services"]}
    assert names >= {
        "kafka",
        "redis",
        "triton",
        "gateway",
        "ingest",
        "worker-1",
        "worker-2",
        "mixer",
        "accountant",
        "prometheus",
    }
    coded = f"{up.url}/v1/streams/coded/hls/index.m3u8"
    up.until(lambda: all(row["state"] and row["state"]["fps_analysed"] for row in up.get("/v1/streams")["streams"]))
    up.until(lambda: (up.folder / "mixed" / "coded" / "segment-00003.m4s").exists())
    found = numbers(coded, 5 * CODED_FPS)
    assert len(found) == 5 * CODED_FPS and -1 not in found
    steps = [(b - a) % CODED_FRAMES for a, b in itertools.pairwise(found)]
    assert all(0 < step < CODED_FRAMES // 2 for step in steps), (
        found,
        "each picture once, in order; a busy machine sheds",
    )

    states = {row["source_id"]: row["state"] for row in up.get("/v1/streams")["streams"]}
    assert set(states) == {"coded", "pedestrians"}
    for state in states.values():
        assert state["running"] and state["epoch"] == 1 and state["error"] is None
        assert state["alignment"]["aligned"] is True and state["alignment"]["shown"] > 0
        assert state["balance"]["accepted"] > 0
    assert up.get("/v1/streams/pedestrians/results?limit=5")["results"]

    _, text = up.lockstep("sync-test", "--against", up.url, "--seconds", "3", "--delay-ms", "2000", "--json")
    sources = json.JSONDecoder().raw_decode(text, text.index("{"))[0]["sources"]  # progress stands behind it
    assert [source["exact"] for source in sources] == [1.0, 1.0], text + up.said()
    for source in sources:  # coverage depends on what else this machine does; the test below holds it to its bound
        assert source["measured"] and not source["differing"] and not source["unreadable"], text
        assert all("coverage" in fault or "analysed" in fault for fault in source["faults"]), text

    code, text = up.lockstep("ledger", "--all", "--json", "--config", up.document["config"])
    rows = json.loads(text[: text.rindex("]") + 1])
    assert code == 0 and all(row["balanced"] and row["in_flight"] for row in rows), "while both go on: " + text

    for source_id in ("coded", "pedestrians"):  # a source that is over closes its ledger
        request = urllib.request.Request(f"{up.url}/v1/streams/{source_id}", method="DELETE")
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 204
    balance: list[str] = []

    def balanced() -> bool:
        code, text = up.lockstep("ledger", "--all", "--json", "--config", up.document["config"])
        balance[:] = [text]
        return code == 0

    up.until(balanced, 90)
    rows = {row["source_id"]: row for row in json.loads(balance[0][: balance[0].rindex("]") + 1])}
    assert len(rows) == 4 and all(row["holes"] == row["open"] == 0 for row in rows.values()), rows
    assert rows["pedestrians"]["reasons"]["not_sampled"] > 0, "every second frame"

    assert up.interrupt() <= 10
    assert not [p for p in up.children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.faults
def test_boxes_stay_exact_while_workers_are_killed(up: Up) -> None:
    """D is longer than it takes to start a worker again, so a kill costs no coverage either."""
    over = threading.Event()
    killed: list[int] = []

    def kill() -> None:
        while not over.wait(9):
            name = f"worker-{1 + len(killed) % 2}"
            running = [
                c
                for c in psutil.Process(up.process.pid).children()
                if name in c.cmdline() and "--member" in c.cmdline()
            ]
            for one in running:
                os.kill(one.pid, signal.SIGKILL)
                killed.append(one.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        code, text = up.lockstep("sync-test", "--against", up.url, "--seconds", "45", "--delay-ms", "20000", "--json")
    finally:
        over.set()
        thread.join()
    assert len(killed) >= 4, "too few workers were killed while it was measured: " + text + up.said()
    assert code == 0, text + up.said()
    report = json.JSONDecoder().raw_decode(text, text.index("{"))[0]  # progress stands behind it
    for source in report["sources"]:
        assert source["exact"] == 1.0 and source["coverage"] >= 0.99, source
    assert up.interrupt() <= 10
