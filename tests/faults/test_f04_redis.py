"""F4: Redis is flushed, and away for a minute; it is an index, so nothing is lost and nothing is wrong."""

from __future__ import annotations

import random
import time
from contextlib import suppress

import pytest
from fault_api import clients
from fault_common import common
from fault_rig import Rig, Row
from fault_table import Table

from serving.adapters.redis import RedisIndex
from serving.errors import Unavailable

pytestmark = [pytest.mark.needs("kafka"), pytest.mark.needs("redis"), pytest.mark.faults, pytest.mark.timeout(600)]
FLUSHES = 3
REBUILT_S = 30.0
LOOK_S = 1.0  # a look reads all there is, which costs half a second of a core: REST is measured meanwhile


def test_f4_redis(table: Table, rig: Rig) -> None:
    """Three times flushed at random, then stopped; it comes back empty."""
    rng = random.Random(4)
    with table.row("F4") as figures, clients(rig.folder / "api-redis", rate=20, **rig.gateway()) as api:
        index = RedisIndex(rig.redis.url, rig.prefix)
        with rig.row("F4") as row:
            began = time.time()
            time.sleep(max(5.0, rig.load.lasting(15)))
            struck = time.time()
            rebuilt = []
            for _ in range(FLUSHES):
                time.sleep(rng.uniform(0.5, 1.5))
                rig.redis.flush()
                rebuilt.append(_complete(row, index))
            rig.redis.stop()
            time.sleep(max(5.0, rig.load.lasting(60)))
            over = time.time()
            rig.redis.start()
            rebuilt.append(_complete(row, index))
            well = time.time()
            time.sleep(max(5.0, rig.load.lasting(15)))
            ended = time.time()
        figures.told("index complete again after", ", ".join(f"{s:.1f} s" for s in rebuilt))
        figures.at_most("index complete again, longest", max(rebuilt), REBUILT_S, " s")
        figures.none("index against the log", _wrong(row, index))
        calm, sick = row.coverage(row.sources, began, struck), row.coverage(row.sources, struck, over)
        figures.at_least("coverage while it is away, of coverage before", sick / max(calm, 1e-9), 0.99)
        beside, during = api.p99((began, struck), (well, ended)), api.p99((struck, over))
        figures.told("REST p99 before and after, during", f"{beside:.1f} ms, {during:.1f} ms")
        figures.at_most("REST p99 during, of before and after", during / beside, 1.2)
        figures.equal("REST errors", api.failed(), 0)
        index.close()
        common(figures, row)


def _complete(row: Row, index: RedisIndex) -> float:
    """Seconds until every result that stands on the log now is in the index; infinity where it stays incomplete."""
    wanted = {s: {(r.epoch, r.seq) for r in list(row.results(s)) if r.outcome == "result"} for s in row.sources}
    began = time.monotonic()
    while time.monotonic() - began < 2 * REBUILT_S:
        with suppress(Unavailable):  # it has not come back yet
            if all(keys <= _indexed(index, source).keys() for source, keys in wanted.items()):
                return time.monotonic() - began
        time.sleep(LOOK_S)
    return float("inf")


def _indexed(index: RedisIndex, source: str) -> dict[tuple[int, int], tuple[int, ...]]:
    return {
        (d["epoch"], d["frame_seq"]): tuple(box["class_id"] for box in d.get("detections", ()))  # a drop has none
        for epoch in index.epochs(source)
        for d in index.results(source, epoch, 0, None, 10**6).documents
    }


def _wrong(row: Row, index: RedisIndex) -> list[str]:
    """Answers that are not what the log says."""
    faults = []
    for source in row.sources:
        told = {(r.epoch, r.seq): tuple(int(b[-1]) for b in r.boxes) for r in row.results(source)}
        found = _indexed(index, source)
        faults += [f"{source} {key}: {boxes}, the log says {told.get(key)}" for key, boxes in found.items()
                   if told.get(key) != boxes]  # fmt: skip
    return faults
