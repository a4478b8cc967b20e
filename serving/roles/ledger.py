"""The balance of a source as `outcomes` tells it: every accepted frame, and what it ended as."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from serving.align import Balance
from serving.errors import RecordInvalid
from serving.frames import DeadReason, LedgerKey, SourceKind, Status
from serving.ports_log import RecordLog, TopicPartition
from serving.records import OutcomeMessage, decode_outcome
from serving.roles.following import standing
from serving.roles.names import Names
from serving.roles.timelines import Timelines

EVERYTHING = range(1 << 62)
MISSING_SHOWN = 20
# For the accountant, when it is time to close a key of a live source. What is open still after that is wrong.
GRACE_MS = 30_000


@dataclass(slots=True)
class LedgerRow:
    """One timeline and pipeline. open: keys with an outcome that may still rise. holes: places without any, and which.

    accepted: places looked at. forgotten: older ones, closed, whose outcomes retention has taken off the log.
    closed_to: the first frame_seq that is not closed yet. in_flight: of a live source that goes on, the newest places,
    not due to be closed yet; they are counted here only.
    """

    source_id: str
    epoch: int
    pipeline: str
    accepted: int = 0
    results: int = 0
    dropped: int = 0
    dead: int = 0
    open: int = 0
    holes: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    forgotten: int = 0
    closed_to: int = 0
    in_flight: int = 0

    @property
    def balanced(self) -> bool:
        """Every place has exactly one final outcome."""
        return self.holes == 0 and self.open == 0 and self.accepted == self.results + self.dropped + self.dead


def balance_fields(epoch: int, totals: Mapping[str, Balance]) -> dict[str, Any]:
    """What the accountant says of a source (`serving.roles.state`): the sums of all of its pipelines."""
    reasons = sum((Counter(dict(total.reasons)) for total in totals.values()), Counter[str]())
    dead = {reason.value for reason in DeadReason}
    return {
        "epoch": epoch,
        "accepted": sum(total.accepted for total in totals.values()),
        "results": sum(total.results for total in totals.values()),
        "dropped": {reason: count for reason, count in sorted(reasons.items()) if reason not in dead},
        "dead": {reason: count for reason, count in sorted(reasons.items()) if reason in dead},
        "in_flight": sum(total.in_flight for total in totals.values()),
    }


@dataclass(frozen=True, slots=True)
class Due:
    """When a key of a live source should be closed. now_ms: the wall clock, 0: the newest record's time, as only the
    broker's own times are sure to be comparable. closes_ms: after its frame, by the accountant's rule."""

    now_ms: int = 0
    closes_ms: int = 60_000


def read_ledger(
    log: RecordLog, names: Names, source_id: str = "", span: range = EVERYTHING, epoch: int = 0, due: Due = Due()
) -> list[LedgerRow]:
    """All timelines of a source, or of all sources, by what stands on `outcomes` now. span: of frame_seq."""

    def wanted(key: LedgerKey) -> bool:
        return source_id in ("", key.source_id) and epoch in (0, key.epoch)

    timelines = Timelines(log, names)
    try:
        timelines.catch_up()
        told = _outcomes(log, names.topic("outcomes"), wanted)
        return [_row(found, span, due, _goes_on(timelines, found)) for found in told]
    finally:
        timelines.close()


@dataclass(slots=True)
class _Told:
    """What `outcomes` has of one timeline and pipeline, by frame_seq. cut: retention has taken the oldest records."""

    source_id: str
    epoch: int
    pipeline: str
    outcomes: dict[int, tuple[OutcomeMessage, int]] = field(default_factory=dict)  # with the broker's time, ms
    cut: bool = False


def _outcomes(log: RecordLog, topic: str, wanted: Callable[[LedgerKey], bool]) -> list[_Told]:
    places = [TopicPartition(topic, n) for n in range(log.partitions(topic))]
    cut = {place for place, (oldest, _) in log.bounds(places).items() if oldest > 0}
    found: dict[tuple[str, int, str], _Told] = {}
    for record in chain.from_iterable(standing(log, places)):
        try:
            message = decode_outcome(record.key, record.value, record.headers)
        except RecordInvalid:
            continue  # `outcomes` is the accountant's alone; a stranger's record counts for nothing
        key = message.key
        if wanted(key):
            where = key.source_id, key.epoch, key.pipeline
            told = found.setdefault(where, _Told(*where))
            told.outcomes[key.frame_seq] = message, record.timestamp_ms
            told.cut = told.cut or record.place in cut
    return [told for _, told in sorted(found.items())]


def _goes_on(timelines: Timelines, told: _Told) -> bool:
    """Of a live source, and nobody has said how many frames the epoch has."""
    claimed = timelines.find(told.source_id, told.epoch)
    return claimed is not None and claimed.info.kind is SourceKind.LIVE and claimed.frames is None


def _row(told: _Told, span: range, due: Due, goes_on: bool) -> LedgerRow:
    """Keys close in order, so what lies below the first one that retention left was closed as well."""
    begin = max(span.start, min(told.outcomes)) if told.cut else span.start
    end = min(span.stop, max(told.outcomes) + 1)
    closed_to = next((n for n in range(begin, end) if n not in told.outcomes or not told.outcomes[n][0].closed), end)
    in_flight = 0
    if goes_on and span.stop == EVERYTHING.stop and not _overdue(told, closed_to, due):
        end, in_flight = closed_to, end - closed_to
    seen = {seq: message for seq, (message, _) in told.outcomes.items() if begin <= seq < end}
    status = Counter(message.outcome.status for message in seen.values())
    reasons = Counter(message.outcome.reason for message in seen.values() if message.outcome.reason)
    accepted = max(0, end - begin)
    return LedgerRow(
        told.source_id, told.epoch, told.pipeline, accepted, status[Status.RESULT], status[Status.DROPPED],
        status[Status.DEAD_LETTER], sum(not message.closed for message in seen.values()),
        accepted - len(seen), dict(sorted(reasons.items())), _missing(sorted(seen), begin, end), begin - span.start,
        closed_to, in_flight,
    )  # fmt: skip


def _overdue(told: _Told, closed_to: int, due: Due) -> bool:
    """By the first outcome from there on: a place without one is at least as old as the next place that has one."""
    times = {seq: at_ms for seq, (_, at_ms) in told.outcomes.items() if seq >= closed_to}
    return bool(times) and max(due.now_ms, *times.values()) - times[min(times)] > due.closes_ms + GRACE_MS


def _missing(told: list[int], begin: int, end: int) -> list[str]:
    """The holes as ranges of frame_seq, the first of them only where there are many."""
    holes: list[str] = []
    before = begin
    for seq in [*told, end]:
        if seq > before and len(holes) < MISSING_SHOWN:
            holes.append(f"{before}-{seq - 1}" if seq - before > 1 else str(before))
        before = seq + 1
    return holes
