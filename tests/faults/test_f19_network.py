"""F19: loss and delay between workers and broker. F20: the soak, with wraps."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fault_common import common, memory_mb
from fault_rig import Rig, Row
from fault_table import Table

pytestmark = [pytest.mark.needs("kafka"), pytest.mark.faults, pytest.mark.timeout(1500)]
WRAP = 1 << 33
TICKS = 90_000
SOAK_S = 600.0
WARM_SHARE = 0.25


def test_f19_network(table: Table, rig: Rig) -> None:
    """5 % loss, 200 ms +/- 100 ms, as round trip: half of it each way. D is 2 s, as such a network needs."""
    with table.row("F19") as figures:
        with (
            rig.bad_network(*rig.workers, delay_s=0.1, jitter_s=0.05, loss=0.05) as network,
            rig.row("F19", delay_ms=NETWORK_DELAY_MS) as row,
        ):
            time.sleep(max(5.0, rig.load.lasting(10)))  # the group moves to the workers behind that network
            began = time.time()
            time.sleep(max(10.0, rig.load.lasting(70)))
            over = time.time()
        figures.at_least("chunks lost", network.lost, 10)
        figures.at_least("coverage", row.coverage(row.sources, began, over), 0.97)
        common(figures, row)


NETWORK_DELAY_MS = 2000


def test_f20_soak(table: Table, rig: Rig) -> None:
    """Ten minutes at the standard load; two sources wrap."""

    def cameras(row: Row) -> None:
        row.start_pts = {0: WRAP - 30 * TICKS, 1: WRAP - 20 * TICKS}

    with table.row("F20") as figures:
        with rig.row("F20", cameras=cameras) as row:
            lasts = max(60.0, rig.load.lasting(SOAK_S))
            time.sleep(WARM_SHARE * lasts)
            began, memory, files = time.time(), memory_mb(rig), _files(rig)
            time.sleep((1 - WARM_SHARE) * lasts)
            minutes = (time.time() - began) / 60
            after, opened = memory_mb(rig), _files(rig)
        slopes = {name: (after[name] - memory[name]) / minutes for name in after if name in memory}
        worst = max(slopes, key=lambda name: slopes[name])
        figures.at_most(f"growth of memory after warm-up ({worst.split()[0]})", slopes[worst], 1.0, " MiB/min")
        grown = max(opened[name] - files[name] for name in opened if name in files)
        figures.at_most("file descriptors more, of any role", grown, 2)
        figures.equal("epochs", {len({f.epoch for f in row.frames(source)}) for source in row.sources}, {1})
        figures.at_least("completed", row.completed(row.sources, began, began + 60 * minutes - 2), 0.97)
        common(figures, row)


def _files(rig: Rig) -> dict[str, int]:
    members = [m for m in rig.crew.members.values() if m.pid is not None]
    return {f"{m.name} {m.pid}": len(list(Path(f"/proc/{m.pid}/fd").iterdir())) for m in members}
