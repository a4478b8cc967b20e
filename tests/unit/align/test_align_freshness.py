"""Shedding by age, bounded queues, sources in turn (docs/guarantees.md, G5)."""

from __future__ import annotations

from fractions import Fraction

import pytest

from serving.align import AgeMeter, FairQueue, SheddingRules, max_age_ns
from serving.frames import DropReason, Frame

MS = 1_000_000


def frame(i: int, source: str = "s", epoch: int = 1, analyse: bool = True) -> Frame:
    at = i * 40 * MS
    return Frame(source, epoch, i, at, i, Fraction(1, 25), ("p",), at, analyse=analyse)


def test_age_is_pts_against_pts_and_time_against_time() -> None:
    meter = AgeMeter()
    meter.header(1, 0, 100)
    meter.header(1, 400, 130)
    assert meter.age_ns(1, 100, 150) == 300 + 20
    meter.header(1, 300, 140)
    assert meter.age_ns(1, 400, 150) == 20
    meter.header(2, 0, 160)
    assert meter.age_ns(1, 400, 170) is None


def test_max_age() -> None:
    assert max_age_ns(250 * MS, mixed=True) == 125 * MS
    assert max_age_ns(250 * MS, mixed=False) == 1000 * MS
    assert max_age_ns(4000 * MS, mixed=False) == 4000 * MS


def live(max_age_ms: int = 125, max_fps: int = 60) -> SheddingRules:
    return SheddingRules(max_age_ms * MS, max_fps)


def test_old_frames_go_stale_oldest_first_and_the_newest_is_always_taken() -> None:
    queue = FairQueue()
    queue.source("s", live())
    for i in range(6):
        assert queue.put(frame(i)) == []
    taken, shed = queue.take(5 * 40 * MS + 50 * MS)
    assert taken is not None and taken.frame_seq == 4, "age of frame 4 is 40 + 50 ms"
    assert [(f.frame_seq, reason) for f, reason in shed] == [(i, DropReason.STALE) for i in range(4)]
    taken, shed = queue.take(100_000 * MS)
    assert taken is not None and taken.frame_seq == 5 and shed == []


def test_a_full_queue_drops_its_oldest() -> None:
    queue = FairQueue()
    queue.source("s", live())
    shed = [s for i in range(20) for s in queue.put(frame(i))]
    assert len(queue) == 8 and [f.frame_seq for f, r in shed if r is DropReason.OVERLOAD] == list(range(12))


def test_frames_of_an_old_epoch_are_stale() -> None:
    queue = FairQueue()
    queue.source("s", live())
    queue.put(frame(7))
    queue.put(frame(0, epoch=2))
    taken, shed = queue.take(280 * MS)
    assert taken is not None and taken.epoch == 2 and [(f.epoch, r) for f, r in shed] == [(1, DropReason.STALE)]


def test_sources_take_turns() -> None:
    queue = FairQueue()
    for source in ("a", "b", "c"):
        queue.source(source, live())
    for i in range(3):
        queue.put(frame(i, "a"))
    queue.put(frame(0, "c"))
    order = [taken.source_id for taken, _ in (queue.take(0) for _ in range(4)) if taken is not None]
    assert order == ["a", "c", "a", "a"]
    assert queue.take(0) == (None, [])


def test_files_never_shed() -> None:
    queue = FairQueue()
    queue.source("s", SheddingRules(125 * MS, live=False))
    i = 0
    while queue.room("s"):
        assert queue.put(frame(i)) == []
        i += 1
    assert i == 8
    with pytest.raises(ValueError, match="ask `room` first"):
        queue.put(frame(i))
    taken, shed = queue.take(10**15)
    assert taken is not None and taken.frame_seq == 0 and shed == []


def test_frames_left_out_on_purpose_only_tell_the_time() -> None:
    queue = FairQueue()
    queue.source("s", live())
    queue.put(frame(0))
    for i in range(1, 5):
        assert queue.put(frame(i, analyse=False)) == []
    assert len(queue) == 1
    queue.put(frame(5))
    _, shed = queue.take(200 * MS)
    assert [f.frame_seq for f, _ in shed] == [0]


def test_a_source_taken_away_hands_back_what_waits() -> None:
    queue = FairQueue()
    queue.source("s", live())
    queue.put(frame(0))
    assert [f.frame_seq for f in queue.remove("s")] == [0] and len(queue) == 0
