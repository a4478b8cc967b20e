"""Merge, ledger, accountant, and what ingest keeps while the log is away."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest

from serving.align import Accountant, EpochRegister, LocalClaims, Outbox, OutcomeRecord, fold, merge, payload_hash
from serving.align.accountant import EPOCHS_KEPT, MAX_EARLY
from serving.align.merge import task_fields
from serving.frames import (
    DeadReason,
    DroppedRun,
    DropReason,
    Frame,
    FrameResult,
    LedgerKey,
    Outcome,
    Picture,
    Posting,
    TimelineRecord,
)
from serving.types import Classification, Detections, Embedding, IntArray, RawTensors, TaskResult

S = 1_000_000_000
P = ("a", "b")


def frame(seq: int, epoch: int = 1, pipelines: tuple[str, ...] = P, analyse: bool = True, source: str = "s") -> Frame:
    picture = Picture(encoded=b"x")
    return Frame(source, epoch, seq, seq * 40, seq, Fraction(1, S), pipelines, 0, picture, analyse)


def dropped(first: int, last: int, reason: DropReason = DropReason.NO_PTS, epoch: int = 1) -> DroppedRun:
    return DroppedRun("s", epoch, first, last, reason, P)


def result(version: int = 1, attempt: int = 1, digest: str = "aa", ids: list[int] | None = None) -> Outcome:
    n = len(ids or [])
    boxes = Detections(
        np.zeros((n, 4), np.float32), np.zeros(n, np.float32), np.zeros(n, np.int64), np.array(ids or [], np.int64)
    )
    return Outcome.of_result(FrameResult("m", version, "detection", boxes, digest), attempt)


def post(seq: int, outcome: Outcome, pipeline: str = "a", epoch: int = 1, pts: int | None = -1) -> Posting:
    return Posting(LedgerKey("s", epoch, seq, pipeline), seq * 40 if pts == -1 else pts, outcome)


RANKED = [
    result(3, 2, "bb"),
    result(2, 1, "aa"),
    result(2, 1, "bb", [1]),
    result(2, 1, "bb", [2]),
    result(2, 2, "aa"),
    result(1, 1, "aa"),
    Outcome.dead_letter(DeadReason.POISON, 3),
    Outcome.dead_letter(DeadReason.SCHEMA),
    Outcome.dropped(DropReason.DECODE_ERROR),
    Outcome.dropped(DropReason.STALE, 1),
    Outcome.dropped(DropReason.STALE, 2),
    Outcome.dropped(DropReason.DEADLINE),
]


def test_merge_is_the_maximum_of_a_total_order() -> None:
    for (i, a), (j, b) in itertools.product(enumerate(RANKED), repeat=2):
        assert merge(a, b) is RANKED[min(i, j)]
    for a, b, c in itertools.product(RANKED, repeat=3):
        assert merge(merge(a, b), c) is merge(a, merge(b, c))
    assert merge(None, RANKED[3]) is RANKED[3]


def test_the_hash_is_over_the_task_fields_only() -> None:
    boxes = np.array([[1, 2, 3, 4]], np.float32)
    one = Detections(boxes, np.array([0.5], np.float32), np.array([7]), np.array([1]))
    two = Detections(boxes, np.array([0.5], np.float32), np.array([7]), None)
    assert payload_hash(one) == payload_hash(two)
    assert task_fields(one) == {"detections": [{"xyxy": [1, 2, 3, 4], "confidence": 0.5, "class_id": 7}]}
    others = [
        Detections(boxes + 1, np.array([0.5], np.float32), np.array([7])),
        Classification(np.array([1]), np.array([0.5], np.float32)),
        Embedding(np.array([0.5], np.float32)),
        RawTensors({"a": np.zeros(2, np.float32)}),
        RawTensors({"a": np.zeros((1, 2), np.float32)}),
    ]
    assert len({payload_hash(x) for x in [one, *others]}) == 6


@dataclass(frozen=True)
class Counted(TaskResult):
    """What a task of its own may give."""

    counts: IntArray
    label: str


def test_a_task_of_its_own_has_a_hash_too() -> None:
    one, two = Counted(np.array([1, 2]), "a"), Counted(np.array([1, 3]), "a")
    assert task_fields(one) == {"counts": [1, 2], "label": "a"} and payload_hash(one) != payload_hash(two)
    with pytest.raises(TypeError, match="expected a dataclass"):
        payload_hash(TaskResult())


def test_nan_is_no_result() -> None:
    with pytest.raises(ValueError):
        payload_hash(Embedding(np.array([np.nan], np.float32)))


def test_every_key_ends_once_and_the_sums_add_up() -> None:
    accountant, out = Accountant(), []
    for record in (frame(0), frame(1, analyse=False), dropped(2, 4), frame(5), frame(6)):
        out += accountant.frame(record, 0)
    for posting in (
        post(0, result()),
        post(0, result(), "b"),
        post(5, Outcome.dead_letter(DeadReason.SCHEMA)),
        post(5, Outcome.dropped(DropReason.STALE), "b"),
    ):
        out += accountant.post(posting, 0)
    a = accountant.total("s", "a")
    assert (a.accepted, a.results, a.dropped, a.dead, a.in_flight, a.not_sampled) == (7, 1, 4, 1, 1, 1)
    assert dict(a.reasons) == {"not_sampled": 1, "no_pts": 3, "schema": 1} and a.holds
    assert a.analysed_share == pytest.approx(1 / 6)
    assert accountant.tick(60 * S - 1) == []
    closed = accountant.tick(60 * S)
    assert len(closed) == 14 and all(record.closed for record in closed)
    assert [r.outcome.reason for r in closed if r.key.frame_seq == 6] == ["deadline", "deadline"]
    assert accountant.total("s", "b").in_flight == 0


def test_after_close_nothing_changes() -> None:
    accountant = Accountant()
    accountant.frame(frame(0), 0)
    accountant.post(post(0, result(1)), 0)
    accountant.tick(60 * S)
    assert accountant.post(post(0, result(9)), 60 * S) == []
    assert accountant.total("s", "a").results == 1


def test_a_hole_in_frame_seq_was_deleted_unread() -> None:
    accountant = Accountant()
    accountant.timeline(TimelineRecord("s", 1, "me", Fraction(1, S), 0, 0, None, P))
    accountant.frame(frame(3), 0)
    assert dict(accountant.total("s", "a").reasons) == {"retention": 3}
    accountant.post(post(1, result()), 0)  # somebody else read it in time
    assert dict(accountant.total("s", "a").reasons) == {"retention": 2} and accountant.counters.forged == 0


def test_frames_of_a_lower_epoch_after_a_higher_one_are_fenced() -> None:
    accountant = Accountant()
    for record in (frame(0), frame(0, epoch=2), frame(1)):
        accountant.frame(record, 0)
    assert dict(accountant.balance("s", "a")[1].reasons) == {"fenced": 1}


def test_records_read_twice_change_nothing() -> None:
    accountant = Accountant()
    for record in (frame(0), dropped(1, 2), frame(0), dropped(1, 2), frame(3)):
        accountant.frame(record, 0)
    assert accountant.total("s", "a").accepted == 4 and accountant.counters.repeated_frames == 2


def test_a_result_may_come_before_its_frame_record() -> None:
    accountant = Accountant()
    assert accountant.post(post(1, result()), 0) == []
    accountant.frame(frame(0), 0)
    assert [r.key.frame_seq for r in accountant.frame(frame(1), 0)] == [1]


@pytest.mark.parametrize(
    "posting",
    [
        post(0, result(), pts=41),
        post(0, result(), "c"),
        post(0, result(), pts=None),
        post(7, result()),
        post(0, result(), epoch=9),
    ],
)
def test_what_names_no_ledger_key_is_forged_and_counts_nowhere(posting: Posting) -> None:
    accountant = Accountant()
    accountant.frame(frame(0), 0)
    accountant.post(posting, 0)
    accountant.tick(61 * S)
    assert list(accountant.forged) == [posting] and accountant.counters.forged == 1
    assert accountant.total("s", "a").results == 0


def test_early_postings_are_bounded() -> None:
    accountant = Accountant()
    for seq in range(MAX_EARLY + 100):
        accountant.post(post(seq + 1, result()), 0)
    for _ in range(100):
        accountant.post(post(MAX_EARLY + 100, result()), 0)
    assert accountant.counters.forged == 100 + (1 + 100 - 64)


def test_a_source_that_reconnects_all_day_costs_its_sums_only() -> None:
    accountant = Accountant()
    for epoch in range(1, 301):
        accountant.frame(frame(0, epoch), epoch * 60 * S)
        accountant.tick(epoch * 60 * S)
    total = accountant.total("s", "a")
    assert len(accountant.balance("s", "a")) == EPOCHS_KEPT
    assert (total.accepted, total.dropped, total.in_flight) == (300, 299, 1) and total.holds
    accountant.frame(frame(0, 1), 0)
    accountant.post(post(0, result(), epoch=1), 0)
    assert accountant.total("s", "a") == total


def test_finish_closes_one_source_only() -> None:
    accountant = Accountant()
    for source in ("s", "t"):
        accountant.frame(frame(0, source=source), 0)
    assert {r.key.source_id for r in accountant.finish("s")} == {"s"}
    assert accountant.total("t", "a").in_flight == 1


def test_a_restart_knows_what_was_closed_and_what_is_newest() -> None:
    accountant = Accountant()
    for record in (OutcomeRecord(LedgerKey("s", 2, 0, p), result(), True) for p in P):
        accountant.restore(record)
    accountant.frame(frame(0), 0)
    accountant.frame(frame(0, epoch=2), 0)
    assert accountant.balance("s", "a")[1].dropped == 1, "a lower epoch, although the higher one was closed before"
    assert accountant.post(post(0, result(9), epoch=2), 0) == []


def record(epoch: int, who: str) -> TimelineRecord:
    return TimelineRecord("s", epoch, who, Fraction(1, S), 0, 0, None, P)


def test_the_first_record_of_a_number_owns_it() -> None:
    register = EpochRegister()
    assert register.next_epoch("s") == 1
    assert register.apply(record(1, "one")) and not register.apply(record(1, "two"))
    assert register.apply(record(1, "one")), "reading it again changes nothing"
    assert (register.owner("s", 1), register.next_epoch("s"), register.is_fenced("s", 1)) == ("one", 2, False)
    register.apply(record(2, "two"))
    newest = register.newest("s")
    assert register.is_fenced("s", 1) and newest is not None and newest.ingest_id == "two"


def test_local_claims_count_by_source() -> None:
    claims = LocalClaims()
    numbers = [claims.claim(record(0, "x")) for _ in range(3)]
    assert [n.epoch for n in numbers if n is not None] == [1, 2, 3]


def test_an_outage_costs_pictures_and_no_accounting() -> None:
    outbox = Outbox(max_pictures=3)
    records = [
        frame(0),
        frame(1),
        dropped(2, 2),
        frame(3),
        frame(4),
        dropped(5, 5, DropReason.OVERLOAD),
        *map(frame, range(6, 10)),
    ]
    for one in records:
        outbox.put(one)
    kept = []
    while (head := outbox.peek()) is not None:
        kept.append(head)
        outbox.acknowledged()
    assert [(r.first_seq, r.last_seq, r.reason.value) for r in kept if isinstance(r, DroppedRun)] == [
        (0, 1, "overload"),
        (2, 2, "no_pts"),
        (3, 6, "overload"),
    ]
    assert [r.frame_seq for r in kept if isinstance(r, Frame)] == [7, 8, 9]
    assert outbox.evicted == 5 and outbox.pictures == 0


def test_long_outages_fold_into_runs() -> None:
    outbox = Outbox(max_pictures=2)
    for seq in range(100_000):
        outbox.put(frame(seq))
    assert len(outbox) == 3


def test_fold_joins_neighbours_of_one_reason_only() -> None:
    runs = [dropped(0, 0), dropped(1, 2), dropped(3, 3, DropReason.STALE), dropped(5, 5, DropReason.STALE), frame(6)]
    assert [getattr(r, "last_seq", None) for r in fold(runs)] == [2, 3, 5, None]
