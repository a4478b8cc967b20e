"""F2: the broker is stopped, then frozen; nothing that was accepted is lost, and REST does not notice."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from fault_api import clients
from fault_common import common
from fault_rig import Rig, Row
from fault_table import Figures, Table

pytestmark = [pytest.mark.needs("kafka"), pytest.mark.faults, pytest.mark.timeout(600)]
AWAY_S = 30.0


def test_f2_broker_stopped_and_started(table: Table, rig: Rig) -> None:
    """In good order, as an update does it."""
    with table.row("F2") as figures:
        _away(figures, rig, "stopped", rig.broker.stop, rig.broker.start)


def test_f2_broker_frozen(table: Table, rig: Rig) -> None:
    """SIGSTOP: connections stand, nobody answers."""
    with table.row("F2") as figures:
        _away(figures, rig, "frozen", rig.broker.pause, rig.broker.resume)


def _away(figures: Figures, rig: Rig, how: str, away: Callable[[], None], back: Callable[[], None]) -> None:
    with clients(rig.folder / f"api-{how}", rate=20, **rig.gateway()) as api, rig.row("F2") as row:
        time.sleep(4)
        before = rig.restarts()
        began = time.time()
        away()
        time.sleep(max(8.0, rig.load.lasting(AWAY_S)))
        ready = api.ready()
        back()
        at = time.time()
        recovered = row.recovery(at, patience_s=60)
        time.sleep(max(5.0, rig.load.lasting(15)))
        failed, calls = api.failed(began), len(api.calls)
        flushed = _flushed(row, at)
        figures.told(f"{how}: roles that ended", f"{rig.restarts() - before}")
    figures.at_most(f"{how}: fresh again after its return", max(recovered.values()), 5.0, " s")
    figures.at_most(f"{how}: outcomes of all frames of the outage", flushed, 10.0, " s")
    figures.at_most(f"{how}: REST errors of {calls}", 100 * failed / max(1, calls), 0.1, " %")
    figures.equal(f"{how}: REST says that it serves, at the end of the outage", ready, True)
    common(figures, row)


def _flushed(row: Row, at: float) -> float:
    """Seconds from `at` until every frame that a camera had shown before it had an outcome on `outcomes`."""
    latest = at
    for source in row.sources:
        first: dict[tuple[int, int], float] = {}
        for outcome in row.rig.history.outcomes[source]:
            first.setdefault((outcome.epoch, outcome.seq), outcome.place.at_ms / 1000)
        shown = row.shown_at(source)
        for key, seen in shown.items():
            if seen < at:
                latest = max(latest, first.get(key, time.time()))
    return latest - at
