"""A frame that is written twice: a replayed dead letter, a stranger's producer that tried again (I3, G10)."""

from __future__ import annotations

from worker_support import NAMES, System

from serving.frames import SourceKind
from serving.ports_log import TopicPartition
from serving.roles.regions import SourceRegions
from serving.trackers import TRACKERS

PLACE = TopicPartition(NAMES.topic("frames"), 0)


def test_both_copies_in_hand_have_their_outcome_and_hold_no_position() -> None:
    system = System()
    system.claim("a", SourceKind.FILE)
    system.frames("a", [0, 0, 1, 1, 2])
    worker = system.worker()
    system.until(lambda: worker._parts[PLACE].progress.safe == 5 if worker._parts else False, worker)
    assert system.ends() == {("a", 0): "result", ("a", 1): "result", ("a", 2): "result"}
    assert worker._parts[PLACE].progress.open == 0


def test_a_tracked_frame_that_comes_once_more_ends_nobody_and_turns_no_tracker_back() -> None:
    """Every tracker refuses a time that does not rise."""
    system = System()
    system.claim("a", SourceKind.FILE)
    system.register("a", track="bytetrack")
    system.frames("a", range(4))
    worker = system.worker()
    worker.worker._regions = regions = SourceRegions(TRACKERS, lambda stream, path: True)
    worker._regions = regions
    worker._follow({"a"})
    system.until(lambda: len(system.results()) == 4, worker)
    system.frames("a", [1])
    system.until(lambda: len(system.results()) == 5, worker)
    system.frames("a", [4])
    system.until(lambda: len(system.results()) == 6, worker)
    assert worker.analyst.failure is None
    by_frame = {m.posting.key.frame_seq: m.posting.outcome.result for m in system.results()[:4] + system.results()[5:]}
    ids = {seq: result.result.tracker_id for seq, result in by_frame.items() if result is not None}  # type: ignore
    assert len({int(found[0]) for seq, found in ids.items() if seq >= 1}) == 1, "the track goes on behind the replay"
