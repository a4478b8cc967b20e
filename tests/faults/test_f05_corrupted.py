"""F5: damaged transport packets and damaged pictures. F16: pictures that are too large for a record."""

from __future__ import annotations

import hashlib
import time
from collections import Counter

import pytest
from fault_common import common
from fault_rig import Rig, Row
from fault_table import Table, percentile

from serving.murmur2 import partition_of
from serving.ports_log import NewRecord
from serving.testing.faults.role import SPOILT

pytestmark = [pytest.mark.needs("kafka"), pytest.mark.faults, pytest.mark.timeout(600)]
HUGE = 4_100_000


def test_f5_corrupted_pictures_and_packets(table: Table, rig: Rig) -> None:
    """Source 0: a thousandth of its transport packets cut, flipped, zeroed. Source 1: a hundredth of its JPEGs."""
    with table.row("F5") as figures:
        with rig.row("F5", **{"spoil_by_clip": {"1": 0.03}}) as row:
            restarts, began = rig.restarts(), time.time() + rig.load.lasting(10)  # sources begin with old frames
            time.sleep(max(5.0, rig.load.lasting(30)))
            struck = time.time()
            row.camera(0, "spoil", share=0.001)
            time.sleep(max(15.0, rig.load.lasting(60)))
            over = time.time()
        spoilt = [f for f in row.frames(row.sources[1]) if not f.drop_reason and f.size in SPOILT]
        decoded = {(r.epoch, r.seq): r for r in row.results(row.sources[1])}
        named = Counter(r.reason if r else "no outcome" for r in (decoded.get((f.epoch, f.first)) for f in spoilt))
        seen = sum(count for reason, count in named.items() if reason not in ("stale", "overload"))
        figures.at_least(f"damaged JPEGs that a worker looked at, of {len(spoilt)}", seen, 3)
        figures.equal("each of them", set(named) - {"decode_error", "stale", "overload"}, set())
        figures.told("with damaged packets", row.account([row.sources[0]]).text())
        figures.equal("roles that ended", rig.restarts() - restarts, 0)
        others = row.sources[2:]
        if others:
            calm = percentile(row.ages(others, began, struck), 0.99)
            sick = percentile(row.ages(others, struck, over), 0.99)
            figures.told("p99 age of the others' results, before and during", f"{calm:.3f} s, {sick:.3f} s")
        figures.at_least("completed of the others", row.completed(row.sources[2:] or row.sources, struck, over), 0.98)
        common(figures, row)


def test_f16_oversized_frame(table: Table, rig: Rig) -> None:
    """Pictures of 1440x1080 with a low limit: most fit when made smaller, noise does not; and a record of 4 MB."""

    def cameras(row: Row) -> None:
        row.large = {0}

    with table.row("F16") as figures:
        with rig.row("F16", sources=2, cameras=cameras, max_payload_by_clip={"0": 20_000}) as row:
            time.sleep(max(10.0, rig.load.lasting(40)))
            forged = bytes(range(256)) * (HUGE // 256)
            key = row.sources[1].encode()
            letters = len(rig.history.letters)
            producer = rig.log.producer()
            number = partition_of(key, rig.log.partitions(f"{rig.prefix}frames"))
            producer.append(NewRecord(f"{rig.prefix}frames", key, forged, (), number))
            assert producer.close(30) == 0
            row.until(lambda: len(rig.history.letters) > letters, "a dead letter for the forged record", 30)
            alive = rig.crew.alive(row.ingests[row.sources[0]])
            time.sleep(3)
        _, headers, value = rig.history.letters[letters]
        large = [f for f in row.frames(row.sources[0]) if not f.drop_reason]
        smaller = [f for f in large if f.scale != "1/1"]
        answers = {(r.epoch, r.seq): r for r in row.results(row.sources[0]) if r.outcome == "result"}
        boxed = [answers[f.epoch, f.first] for f in smaller if (f.epoch, f.first) in answers]
        figures.at_least("frames that fitted after being made smaller", len(smaller), 5)
        figures.at_least("analysed of them", len(boxed), 5)
        reach = max((max(box[2], box[3]) for r in boxed for box in r.boxes), default=0)
        figures.at_least("boxes in pixels of the source: farthest edge", reach, 700)
        figures.at_least("dropped(too_large)", row.account([row.sources[0]]).dropped.get("too_large", 0), 1)
        figures.equal("ingest stays alive", alive, True)
        figures.equal("the forged record: reason", headers["reason"], b"schema")
        figures.equal("size and hash kept", (headers["size"], headers["sha256"].decode()),
                      (str(len(forged)).encode(), hashlib.sha256(forged).hexdigest()))  # fmt: skip
        figures.equal("bytes kept", len(value) in (65536, len(forged)), True)
        common(figures, row)
