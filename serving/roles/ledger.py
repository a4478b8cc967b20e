"""The balance of a source as `outcomes` tells it: every accepted frame, and what it ended as."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.align import Balance
from serving.errors import RecordInvalid
from serving.frames import DeadReason, Status
from serving.ports_log import RecordLog, TopicPartition
from serving.records import OutcomeMessage, decode_outcome
from serving.roles.names import Names

EVERYTHING = range(1 << 62)
MISSING_SHOWN = 20


@dataclass(slots=True)
class LedgerRow:
    """One timeline and pipeline. open: keys with an outcome that may still rise. holes: places without any, and which.

    accepted: places looked at. forgotten: older ones, closed, whose outcomes retention has taken off the log.
    closed_to: the first frame_seq that is not closed yet; of a live source the newest minute is not.
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


def read_ledger(
    log: RecordLog, names: Names, source_id: str = "", span: range = EVERYTHING, epoch: int = 0
) -> list[LedgerRow]:
    """All timelines of a source, or of all sources, by what stands on `outcomes` now. span: of frame_seq."""
    topic = names.topic("outcomes")
    places = [TopicPartition(topic, n) for n in range(log.partitions(topic))]
    reader = log.reader(dict.fromkeys(places, 0))
    known: dict[tuple[str, int, str], dict[int, OutcomeMessage]] = defaultdict(dict)
    cut: dict[str, bool] = {}
    try:
        bounds = {place: reader.bounds(place) for place in places}
        for place, (oldest, _) in bounds.items():
            reader.seek(place, oldest)
        while any(reader.position(place) < end for place, (_, end) in bounds.items()):
            for record in reader.poll(0.2, 5000).records:
                try:
                    message = decode_outcome(record.key, record.value, record.headers)
                except RecordInvalid:
                    continue  # `outcomes` is the accountant's alone; a stranger's record counts for nothing
                key = message.key
                cut[key.source_id] = bounds[record.place][0] > 0
                if source_id in ("", key.source_id) and epoch in (0, key.epoch):
                    known[key.source_id, key.epoch, key.pipeline][key.frame_seq] = message
    finally:
        reader.close()
    return [_row(*where, outcomes, span, cut[where[0]]) for where, outcomes in sorted(known.items())]


def _row(
    source_id: str, epoch: int, pipeline: str, outcomes: dict[int, OutcomeMessage], span: range, cut: bool
) -> LedgerRow:
    """cut: the oldest records of the partition are gone. Keys close in order, so what lies below the first one left
    was closed as well."""
    begin = max(span.start, min(outcomes)) if cut else span.start
    end = min(span.stop, max(outcomes) + 1)
    told = {seq: message for seq, message in outcomes.items() if begin <= seq < end}
    status = Counter(message.outcome.status for message in told.values())
    reasons = Counter(message.outcome.reason for message in told.values() if message.outcome.reason)
    accepted = max(0, end - begin)
    return LedgerRow(
        source_id, epoch, pipeline, accepted, status[Status.RESULT], status[Status.DROPPED],
        status[Status.DEAD_LETTER], sum(not message.closed for message in told.values()),
        accepted - len(told), dict(sorted(reasons.items())), _missing(sorted(told), begin, end), begin - span.start,
        next((seq for seq in range(begin, end) if seq not in told or not told[seq].closed), end),
    )  # fmt: skip


def _missing(told: list[int], begin: int, end: int) -> list[str]:
    """The holes as ranges of frame_seq, the first of them only where there are many."""
    holes: list[str] = []
    before = begin
    for seq in [*told, end]:
        if seq > before and len(holes) < MISSING_SHOWN:
            holes.append(f"{before}-{seq - 1}" if seq - before > 1 else str(before))
        before = seq + 1
    return holes
