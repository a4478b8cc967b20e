"""F7: workers come and go. F15: everything is restarted in turn while a client asks."""

from __future__ import annotations

import time

import pytest
from fault_api import Client
from fault_common import common, memory_mb
from fault_rig import Rig, Row
from fault_table import Table, percentile, spread

from serving.testing.gateway_process import Running, Start, gateways

pytestmark = [pytest.mark.needs("kafka"), pytest.mark.faults, pytest.mark.timeout(900)]
EVERY_S = 5.0
REQUESTS = 10_000


def test_f7_rebalance_storm(table: Table, rig: Rig) -> None:
    """A worker joins or leaves every five seconds, in good order."""
    with table.row("F7") as figures:
        with rig.row("F7") as row:
            memory = memory_mb(rig)
            calm = time.time()
            time.sleep(max(8.0, rig.load.lasting(30)))
            began = time.time()
            moves = _storm(row, max(4, round(rig.load.lasting(180) / EVERY_S)))
            over = time.time()
        stalls = [s for at in moves for source in row.sources if (s := row.stall(source, at, at + EVERY_S)) is not None]
        before, during = row.completed(row.sources, calm, began), row.completed(row.sources, began, over)
        figures.told("joins and leaves", str(len(moves)))
        figures.told("completed before, during", f"{before:.4f}, {during:.4f}")
        figures.at_least("completed, of the calm time", during / before, 0.95)
        figures.at_most("stall of a source per move, p95", percentile(stalls, 0.95), 3.0, " s")
        figures.told("min / median / max", spread(stalls))
        common(figures, row, before=memory)


def _storm(row: Row, moves: int) -> list[float]:
    rig, made = row.rig, []
    guests: list[str] = []
    for number in range(moves):
        at = time.time()
        made.append(at)
        if len(guests) < 2 and number % 3 != 2:
            name = f"guest-{number}"
            rig.crew.start(name, rig.spec("worker", name, static=False))
            guests.append(name)
        elif guests:
            rig.crew.stop(guests.pop(0))
        time.sleep(max(0.0, EVERY_S - (time.time() - at)))
    for name in guests:
        rig.crew.stop(name)
    return made


def test_f15_rolling_restart(table: Table, rig: Rig) -> None:
    """Two gateways, workers, mixer, accountant: SIGTERM in turn, started again, until all requests were made."""
    requests = max(1000, round(REQUESTS * min(1.0, rig.load.scale)))
    folder = rig.folder / "api-rolling"
    folder.mkdir()
    with table.row("F15") as figures, gateways(folder) as start:
        pair = [start(workers=1, drain_s=5) for _ in range(2)]
        client = Client(pair, rate=requests / max(60.0, rig.load.lasting(90)))
        try:
            with rig.row("F15") as row:
                calm = time.time()
                time.sleep(10)
                began = time.time()
                for name in [*rig.workers, "mixer", "accountant"]:
                    rig.crew.restart(name)
                    time.sleep(2)
                for number in range(2):
                    _restart_gateway(pair, number, start)
                row.until(lambda: len(client.calls) >= requests, "all requests", 300)
                over = time.time()
                recovered = row.recovery(over)
        finally:
            client.close()
        figures.equal(f"failed of {len(client.calls)} requests", client.failed(), 0)
        before, during = client.p99((calm, began)), client.p99((began, over))
        figures.told("p99 before, during", f"{before:.1f} ms, {during:.1f} ms")
        figures.at_most("p99 during, of before", during / before, 2.0)
        figures.at_most("fresh after it", max(recovered.values()), 5.0, " s")
        shown_twice = row.faults()
        figures.none("shown twice, or another fault", shown_twice)
        common(figures, row)


def _restart_gateway(pair: list[Running], number: int, start: Start) -> None:
    """SIGTERM; it drains while the other one serves; another takes its place at the same address."""
    old = pair[number]
    old.process.terminate()
    assert old.process.wait(30) == 0, old.log.read_text()[-2000:]
    pair[number] = start(workers=1, drain_s=5, port=old.port)
