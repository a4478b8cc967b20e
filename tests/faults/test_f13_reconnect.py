"""F13: a camera that begins anew, wraps, and falls silent. F8: the wall clock of every role jumps."""

from __future__ import annotations

import itertools
import time

import pytest
from fault_common import common, memory_mb
from fault_rig import Rig, Row
from fault_table import Table

pytestmark = [pytest.mark.needs("kafka"), pytest.mark.faults, pytest.mark.timeout(600)]
WRAP = 1 << 33
TICKS = 90_000
KEYFRAME_S = 2.0


def test_f13_camera_reconnect(table: Table, rig: Rig) -> None:
    """Camera 0 restarts at 0; camera 1 wraps and nothing else; camera 2 wraps and restarts; camera 3 is silent 12 s."""

    def cameras(row: Row) -> None:
        row.start_pts = {1: WRAP - 12 * TICKS, 2: WRAP - 8 * TICKS}

    with table.row("F13") as figures:
        with rig.row("F13", sources=4, cameras=cameras) as row:
            began = time.time()
            time.sleep(max(14.0 - (time.time() - began), rig.load.lasting(20)))
            limit = KEYFRAME_S + rig.load.delay_ms / 1000
            struck = time.time()
            row.camera(0, "restart", pts=0)
            row.camera(2, "restart", pts=0)
            back = row.recovery(struck + 0.2, row.sources[:1] + row.sources[2:3])
            row.camera(3, "pause", s=12)
            time.sleep(12)
            again = row.recovery(time.time(), row.sources[3:])
            time.sleep(max(6.0, rig.load.lasting(10)))
        epochs = {n: len({f.epoch for f in row.frames(source)}) for n, source in enumerate(row.sources)}
        raw = [f.raw_pts for f in row.frames(row.sources[1]) if f.raw_pts is not None]
        figures.equal("the wrap was seen in what ingest read", max(raw) >= WRAP or min(raw) < 0 or _falls(raw), True)
        figures.equal("epochs: restarted, wrapped, both, silent 12 s", epochs, {0: 2, 1: 1, 2: 2, 3: 2})
        figures.at_most("results again after a restart", max(back.values()), limit, " s")
        figures.at_most("results again after 12 s of silence", max(again.values()), limit, " s")
        common(figures, row)


def _falls(raw: list[int]) -> bool:
    return any(b < a - TICKS for a, b in itertools.pairwise(raw))


def test_f8_clock_jump(table: Table, rig: Rig) -> None:
    """An hour ahead, an hour back, 1 000 ppm: the wall clock of worker, mixer, accountant and ingest alike."""
    with table.row("F8") as figures:
        with rig.row("F8") as row:
            memory = memory_mb(rig)
            calm = time.time()
            time.sleep(max(6.0, rig.load.lasting(20)))
            began = time.time()
            for jump in ({"clock_s": 3600}, {"clock_s": -3600}, {"clock_ppm": 1000}, {}):
                rig.calm(**jump)
                time.sleep(max(4.0, rig.load.lasting(15)))
            over = time.time()
        seen = [line["wall_s"] for line in rig.releases(row.sources)]
        figures.equal("the jump was seen by the mixer", max(seen) > 3000 and min(seen) < -3000, True)
        before, during = row.completed(row.sources, calm, began), row.completed(row.sources, began, over)
        figures.at_least("completed, of the calm time", during / before, 0.99)
        figures.equal("epochs", {len({f.epoch for f in row.frames(source)}) for source in row.sources}, {1})
        off = max(abs(f.place.at_ms / 1000 - (calm + over) / 2) for s in row.sources for f in row.frames(s))
        figures.at_most("times of records on the log, from the middle of the row", off, over - calm, " s")
        common(figures, row, before=memory)
