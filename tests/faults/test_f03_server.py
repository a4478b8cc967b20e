"""F3: a real Triton, and the process of one model in it, are killed; a server that is away does not end a worker.

The defect 'readiness = server health' must be found by the same figure.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_common import common
from fault_rig import Rig
from fault_table import Figures, Table, percentile
from triton_load import Call, Watcher, under_load
from triton_support import adder_model, settings_for

from serving.testing.mutants.readiness import readiness_is_server_health
from serving.triton.embedded import EmbeddedTriton

pytestmark = pytest.mark.timeout(600)
NOT_READY_S = {"stub": 10.0, "server": 3.0}


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[EmbeddedTriton]:
    adder_model(tmp_path / "repository")
    with EmbeddedTriton(tmp_path / "repository", (), settings_for(tmp_path)) as made:
        made.wait_ready(60)
        yield made


@pytest.mark.needs("triton")
@pytest.mark.faults
def test_f3_server_and_model_process_killed(table: Table, triton: EmbeddedTriton) -> None:
    """Clients that call without pause."""
    with table.row("F3") as figures:
        stub = triton.watch("adder").stubs[0].pid
        _struck(figures, triton, "stub", lambda: os.kill(stub, signal.SIGKILL), 6.0)
        server = triton.pid
        _struck(figures, triton, "server", lambda: os.kill(server, signal.SIGKILL), 10.0)


@pytest.mark.needs("triton")
def test_f3_readiness_by_server_health_is_seen(triton: EmbeddedTriton) -> None:
    """With the defect a model whose process is gone stays ready for as long as the server does."""
    with readiness_is_server_health():
        watcher = Watcher(triton)
        os.kill(triton.watch("adder").stubs[0].pid, signal.SIGKILL)
        watcher.follow(NOT_READY_S["stub"])
        assert not watcher.lost, "it was seen to be gone, so the figure of F3 would not have found the defect"


@pytest.mark.needs("kafka")
@pytest.mark.faults
def test_f3_workers_live_on_without_a_server(table: Table, rig: Rig) -> None:
    """What the model cannot be asked in time is dropped(model_unavailable); nobody ends."""
    with table.row("F3") as figures:
        with rig.row("F3") as row:
            time.sleep(3)
            restarts = rig.restarts()
            rig.calm(down=True)
            time.sleep(max(6.0, rig.load.lasting(20)))
            at = time.time()
            rig.calm()
            recovered = row.recovery(at)
            time.sleep(2)
        figures.at_least("dropped(model_unavailable)", row.account().dropped.get("model_unavailable", 0), 1)
        figures.equal("workers that ended", rig.restarts() - restarts, 0)
        figures.at_most("fresh after the server's return", max(recovered.values()), 5.0, " s")
        common(figures, row)


def _struck(figures: Figures, triton: EmbeddedTriton, what: str, strike: Callable[[], None], seconds: float) -> None:
    watcher = Watcher(triton)
    following = threading.Thread(target=watcher.follow, args=(seconds,))

    def fault() -> None:
        strike()
        following.start()

    at, calls = under_load(triton, fault, seconds)
    following.join()
    figures.equal(f"{what} killed: wrong answers", sum(call[2] == "wrong" for call in calls), 0)
    figures.at_most(f"{what} killed: not ready after", (watcher.lost or float("inf")) - at, NOT_READY_S[what], " s")
    errors = [call for call in calls if call[2] != "ok"]
    first = min(started + took for started, took, _ in errors)
    figures.at_most(f"{what} killed: refused at once, p90", _refused_ms(errors, first), 100, " ms")
    back = watcher.back or float("inf")
    after = [call[2] for call in calls if back + 0.6 < call[0] <= back + 5]
    figures.at_least(f"{what} killed: success once loaded again", after.count("ok") / max(1, len(after)), 0.99)
    figures.told(f"{what} killed: ready again", f"{back - at:.2f} s")


def _refused_ms(errors: list[Call], first: float) -> float:
    """Of the calls from a quarter of a second after the first error on, when the breaker is open; probes are slower.
    A server that is back by then had nobody to refuse."""
    refused = [took for started, took, _ in errors if started > first + 0.25]
    return 1e3 * percentile(refused, 0.9) if refused else 0.0
