"""Results as they are recorded: candidates of `results` joined with what `outcomes` says of their keys.

`results` carries every candidate from any role, also forged, late and outvoted ones; `outcomes` says which of them a
key is recorded as, by status, reason, attempt, model version and payload hash. Whoever shows results joins the two and
shows nothing else: so the index, and the live events of the gateway, can be rebuilt from the log at any time and are
the same as before.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from serving.clock import NS_PER_S, Clock
from serving.errors import RecordInvalid
from serving.frames import DropReason, LedgerKey, Outcome
from serving.ports_log import LogRecord, RecordLog, TopicPartition
from serving.records.outcomes import OutcomeMessage, decode_outcome
from serving.records.results import ResultMessage, decode_result

KEYS_MOST = 100_000
CANDIDATES_MOST = 20_000
PATIENCE_NS = 180 * NS_PER_S  # longer than a key stays open: what has not met its other half then never will
_NO_CANDIDATE = frozenset({DropReason.NOT_SAMPLED, DropReason.FENCED, DropReason.RETENTION})

Print = tuple[str, str, int, int, str]


def print_of(outcome: Outcome) -> Print:
    """What tells two outcomes of one key apart."""
    result = outcome.result
    version, digest = (result.model_version, result.payload_hash) if result is not None else (0, "")
    return outcome.status.name, outcome.reason, outcome.attempt, version, digest


@dataclass(slots=True)
class _Entry:
    since_ns: int
    candidates: dict[Print, ResultMessage] = field(default_factory=dict)
    recorded: Print | None = None
    shown: Print | None = None
    results_at: int | None = None  # offset of the oldest candidate that waits
    outcomes_at: int | None = None  # offset of a record that waits for its candidate


class RecordedJoin:
    """One partition number. newest_first: the log is read backwards, so what was recorded first of a key stands."""

    def __init__(self, clock: Clock, newest_first: bool = False) -> None:
        self._clock, self._newest_first = clock, newest_first
        self._entries: OrderedDict[LedgerKey, _Entry] = OrderedDict()
        self._candidates = 0
        self.counters: Counter[str] = Counter()

    def candidate(self, message: ResultMessage, offset: int) -> ResultMessage | None:
        """A record of `results`; itself, if it is what is recorded."""
        entry, mark = self._entry(message.posting.key), print_of(message.posting.outcome)
        if entry.shown == mark or mark in entry.candidates:
            return None
        if entry.recorded == mark:
            return self._show(entry, message, mark)
        if self._newest_first and entry.recorded is not None:
            return None
        entry.candidates[mark] = message
        entry.results_at = offset if entry.results_at is None else min(offset, entry.results_at)
        self._candidates += 1
        self._bound()
        return None

    def recorded(self, message: OutcomeMessage, offset: int) -> ResultMessage | None:
        """A record of `outcomes`; the candidate that it names, if it is here and not shown yet."""
        if message.outcome.drop_reason in _NO_CANDIDATE and message.key not in self._entries:
            return None
        entry, mark = self._entry(message.key), print_of(message.outcome)
        if self._newest_first and entry.recorded is not None:
            return None
        entry.recorded = mark
        found = entry.candidates.get(mark)
        if found is not None:
            return self._show(entry, found, mark)
        if entry.shown != mark:
            entry.outcomes_at = offset
        elif message.closed and not self._newest_first:
            self._drop(message.key)
        return None

    def expire(self) -> None:
        """Give up what waited too long."""
        now_ns = self._clock.monotonic_ns()
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if now_ns - entry.since_ns <= PATIENCE_NS:
                return
            self.counters["never_recorded"] += len(entry.candidates)
            self._drop(key)

    def waits_from(self) -> tuple[int | None, int | None]:
        """Offsets of the oldest candidate and the oldest recorded outcome that wait for each other."""
        results = [e.results_at for e in self._entries.values() if e.results_at is not None]
        outcomes = [e.outcomes_at for e in self._entries.values() if e.outcomes_at is not None]
        return min(results, default=None), min(outcomes, default=None)

    def _entry(self, key: LedgerKey) -> _Entry:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(self._clock.monotonic_ns())
            while len(self._entries) > KEYS_MOST:
                self._drop_oldest()
        return entry

    def _show(self, entry: _Entry, message: ResultMessage, mark: Print) -> ResultMessage:
        self._candidates -= len(entry.candidates)
        entry.candidates.clear()
        entry.shown, entry.results_at, entry.outcomes_at = mark, None, None
        return message

    def _bound(self) -> None:
        while self._candidates > CANDIDATES_MOST:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        key = next(iter(self._entries))
        self.counters["overflow"] += len(self._entries[key].candidates)
        self._drop(key)

    def _drop(self, key: LedgerKey) -> None:
        self._candidates -= len(self._entries.pop(key).candidates)


class RecordedTail:
    """Follows `results` and `outcomes` of some partition numbers. One thread uses it.

    starts: offsets (results, outcomes) to begin at, by partition number. Raises what the log raises.
    """

    def __init__(
        self, log: RecordLog, results: str, outcomes: str, starts: Mapping[int, tuple[int, int]], clock: Clock
    ) -> None:
        self._results, self._outcomes = results, outcomes
        self._joins = {number: RecordedJoin(clock) for number in starts}
        positions = {TopicPartition(results, number): at for number, (at, _) in starts.items()}
        positions |= {TopicPartition(outcomes, number): at for number, (_, at) in starts.items()}
        self._reader = log.reader(positions)
        self.refused = 0

    def poll(self, timeout_s: float, most: int = 500) -> list[tuple[int, ResultMessage]]:
        """What has come to be recorded, with its partition number."""
        found = []
        for record in self._reader.poll(timeout_s, most).records:
            message = joined(self._joins[record.partition], record, self._results)
            if isinstance(message, ResultMessage):
                found.append((record.partition, message))
            self.refused += message is False
        for join in self._joins.values():
            join.expire()
        return found

    def resumes(self) -> dict[int, tuple[int, int]]:
        """Where another tail would have to begin to miss nothing (offsets of results, outcomes), by number."""
        found = {}
        for number, join in self._joins.items():
            results, outcomes = join.waits_from()
            next_results = self._reader.position(TopicPartition(self._results, number))
            next_outcomes = self._reader.position(TopicPartition(self._outcomes, number))
            found[number] = (
                next_results if results is None else results,
                next_outcomes if outcomes is None else outcomes,
            )
        return found

    def close(self) -> None:
        """Let go."""
        self._reader.close()


def joined(join: RecordedJoin, record: LogRecord, results_topic: str) -> ResultMessage | bool | None:
    """What one record of either topic brings out; False for a record that is none (the accountant refuses it)."""
    try:
        if record.topic == results_topic:
            return join.candidate(decode_result(record.key, record.value, record.headers), record.offset)
        return join.recorded(decode_outcome(record.key, record.value, record.headers), record.offset)
    except RecordInvalid:
        return False
