"""F11: a picture that ends its worker, hangs it, or wants more memory than there is."""

from __future__ import annotations

import time

import numpy as np
import pytest
from fault_common import common, owners
from fault_rig import Rig, Row
from fault_table import Figures, Table

from serving.roles.jobs import POISON_AT
from serving.testing.faults.role import MEMORY_LIMIT
from serving.testing.faults.stub_model import CHUNK

pytestmark = pytest.mark.needs("kafka")
LIMITS_S = {"exit": 15.0, "memory": 15.0, "hang": 45.0}


def test_f11_poison_that_ends_its_worker(table: Table, rig: Rig) -> None:
    """The quick selection."""
    with table.row("F11") as figures:
        _poison(figures, rig, ["exit"])


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_f11_poison(table: Table, rig: Rig) -> None:
    """One picture after the other."""
    with table.row("F11") as figures:
        _poison(figures, rig, ["exit", "memory", "hang"])


def _poison(figures: Figures, rig: Rig, kinds: list[str]) -> None:
    with rig.row("F11") as row:
        time.sleep(2)
        for number, kind in enumerate(kinds):
            _one(figures, row, number % len(row.sources), kind)
            time.sleep(max(4.0, row.rig.load.lasting(10)))
    common(figures, row)


def _one(figures: Figures, row: Row, victim: int, kind: str) -> None:
    rig, source = row.rig, row.sources[victim]
    if kind == "memory":
        figures.told(f"{kind}: the machine's first touch of as much", f"{_touched(MEMORY_LIMIT):.1f} s")
    owned, letters, ends = owners(row), len(rig.history.letters), _ends(rig)
    what = f"{victim}:{poison(row, victim, kind)}"
    row.until(lambda: any(rig.at_work(name) == what for name in rig.workers), f"{kind}: it is met", 40)
    met = time.time()
    row.until(lambda: len(rig.history.letters) > letters, f"{kind}: a dead letter", 60)
    buried = time.time()
    rig.calm()
    key, headers, value = rig.history.letters[-1]
    frame = next(f for f in row.frames(source) if f.place.offset == int(headers["offset"]))
    figures.at_most(f"{kind}: dead letter after", buried - met, LIMITS_S[kind], " s")
    figures.equal(f"{kind}: processes that it ended", _ends(rig) - ends, POISON_AT)
    figures.equal(f"{kind}: reason, source", (headers["reason"].decode(), key), ("poison", source))
    kept = len(value) == frame.size and int(headers["original.frame_seq"]) == frame.first
    figures.equal(f"{kind}: bytes and headers kept", kept, True)
    figures.equal(f"{kind}: error class", headers["error_code"].decode(), "engine_failed")
    row.recovery(buried, [source])
    apart = [name for name in row.sources if owned.get(name) != owned.get(source)]
    if apart:
        figures.at_least(f"{kind}: coverage of other workers' sources", row.coverage(apart, met, buried), 0.99)


def poison(row: Row, clip: int, kind: str) -> int:
    """Make the picture that this camera shows in about two seconds deadly; its number in the clip."""
    load = row.rig.load
    newest = row.results(row.sources[clip])[-1]
    count = round(load.clip_s * load.fps)
    index = (int(newest.boxes[0][-1]) + 3 * load.fps) % count if newest.boxes else count // 2
    row.rig.calm(poison={f"{clip}:{index}": kind})
    return index


def _touched(size: int) -> float:
    """Seconds. A virtual machine's host may have taken memory back that nobody used: up to 4 s a GiB were seen until it
    is there again, which says nothing of a worker. It happens before the picture is met, not within each attempt."""
    began = time.monotonic()
    hoard = [np.ones(CHUNK, np.uint8) for _ in range(size // CHUNK)]
    del hoard
    return time.monotonic() - began


def _ends(rig: Rig) -> int:
    return sum(len(rig.crew.members[name].exits) for name in rig.workers)
