"""Accountant over the log: owns the merge of its partitions, writes `outcomes`, and gives forged records a dead letter.

Its memory is the log: after an assignment the closed keys are read back from `outcomes`, and positions are committed
only as far as every key before them is closed. So it may die at any point, and the account is the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from serving.align import EMPTY_BALANCE, Accountant, Balance, CloseRule, OutcomeRecord
from serving.clock import NS_PER_S, Clock
from serving.errors import CommitRefused, LogUnavailable, RecordInvalid
from serving.frames import DeadReason, SourceKind
from serving.ports_index import ResultIndex
from serving.ports_log import Assignor, Committed, GroupOptions, LogRecord, RecordLog, TopicPartition
from serving.records import (
    DeadLetter,
    OutcomeMessage,
    decode_frame,
    decode_outcome,
    decode_result,
    encode_dead_letter,
    encode_outcome,
)
from serving.roles.following import pause_only, standing
from serving.roles.index import IndexWriter
from serving.roles.ledger import balance_fields
from serving.roles.monitor import RoleMonitor
from serving.roles.names import Names
from serving.roles.sender import Sender
from serving.roles.state import publish_state
from serving.roles.timelines import Timelines, check_ahead, first_and_last, is_whole
from serving.streams.observe import StreamMetrics

COMMIT_NS = NS_PER_S
RESTORE_S = 60.0  # without any record
MAX_UNSENT = 2000  # with so many on their way nothing more is closed: without a broker time closes keys all the same
# Frames whose results came before them. Where so many wait and there are frames to be read, `results` waits on the log;
# where there are none, the oldest of more than MAX_EARLY never were frames.
PAUSE_EARLY, MAX_EARLY = 2048, 8192


@dataclass(frozen=True, slots=True)
class _OpenFrame:
    offset: int
    results_from: int
    source_id: str
    epoch: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class _Early:
    record: LogRecord
    since_ns: int


@dataclass(slots=True)
class _Account:
    """One partition number of `frames` and `results`.

    early: the first result of each frame that is not taken yet. next: the offset after the last record that was taken,
    by topic; the consumer's own position runs ahead of it by what one poll gave.
    """

    accountant: Accountant
    next: dict[str, int]
    frames: deque[_OpenFrame] = field(default_factory=deque)
    early: dict[tuple[str, int, int], _Early] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)


class LogAccountant:
    """Call `step` from one thread until told to stop, then `close`."""

    def __init__(
        self, log: RecordLog, names: Names, rule: CloseRule, clock: Clock, member: str = "",
        monitor: RoleMonitor | None = None, index: ResultIndex | None = None, writer: IndexWriter | None = None,
    ) -> None:  # fmt: skip
        self.monitor = monitor or RoleMonitor("accountant", clock, names.prefix)
        self._counted, self._index, self._writer = StreamMetrics(self.monitor.metrics), index, writer
        self._log, self._names, self._rule, self._clock = log, names, rule, clock
        self._frames, self._results = names.topic("frames"), names.topic("results")
        self._sender = Sender(log.producer())
        self._timelines = Timelines(log, names)
        self._accounts: dict[int, _Account] = {}
        self._unread: deque[LogRecord] = deque()
        self._paused: set[TopicPartition] = set()
        self.dead_letters = 0
        self._committed_ns = self._ticked_ns = clock.monotonic_ns()
        options = GroupOptions(names.group("accountant"), Assignor.RANGE, member=member, gathers=True)
        self._consumer = log.consumer([self._frames, self._results], options, self)

    # -- the loop ---------------------------------------------------------------------------------------------------

    def step(self, timeout_s: float = 0.1) -> None:
        """Read, merge, close what is due, write, commit."""
        self._timelines.poll()
        polled = self._consumer.poll(timeout_s)
        self.monitor.polled(polled)
        self._unread.extend(polled.records)
        try:
            self._take_unread()
        except LogUnavailable as error:  # nobody could tell whose a frame is: it is asked again
            self.monitor.complain("log", str(error))
        self._hold_results_back()
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._ticked_ns >= NS_PER_S // 4 and self._sender.waiting < MAX_UNSENT:
            self._ticked_ns = now_ns
            for number, account in self._accounts.items():
                held_back = TopicPartition(self._results, number) in self._paused  # there are frames to be read first
                self._write(number, account.accountant.tick(now_ns, not held_back))
                if not held_back:
                    self._give_up_early(account, now_ns)
                self._finish_ended(number, account)
        self._sender.poll()
        if now_ns - self._committed_ns >= COMMIT_NS:
            self._committed_ns = now_ns
            self._commit(list(self._accounts))
        if self.monitor.turned():
            self._report()

    def _take_unread(self) -> None:
        while self._unread:
            record = self._unread[0]
            account = self._accounts[record.partition]
            try:
                self._take(record, account)
            except RecordInvalid as error:
                self._dead_letter(record, error)
            account.next[record.topic] = record.offset + 1
            self._unread.popleft()

    def _hold_results_back(self) -> None:
        """Results may be on the log long before this role has read their frames: it begins where a file began."""
        crowded = {n for n, account in self._accounts.items() if len(account.early) >= PAUSE_EARLY}
        behind = self._consumer.lag() if crowded else {}
        wanted = {
            TopicPartition(self._results, n) for n in crowded if behind.get(TopicPartition(self._frames, n), 0) > 0
        }
        pause_only(self._consumer, wanted, self._paused)
        self._paused = wanted

    def close(self) -> None:
        """Commit and leave."""
        self._consumer.close()
        self._sender.close()
        self._timelines.close()

    def totals(self, source_id: str) -> dict[str, Balance]:
        """The balance of a source by pipeline, as far as it is read here."""
        newest = self._timelines.register.newest(source_id)
        here = [account.accountant for account in list(self._accounts.values()) if source_id in account.sources]
        if newest is None or not here:
            return {}
        return {name: sum((one.total(source_id, name) for one in here), EMPTY_BALANCE) for name in newest.pipelines}

    def is_finished(self, source_id: str) -> bool:
        """The source is over and every key is closed."""
        here = [account for account in list(self._accounts.values()) if source_id in account.sources]
        return bool(here) and all(source_id in account.finished for account in here)

    # -- partitions come and go (`serving.ports_log.Rebalance`) -------------------------------------------------------

    def assigned(self, positions: Mapping[TopicPartition, Committed | None]) -> None:
        """Read back what was closed."""
        numbers = sorted({place.partition for place in positions})
        for number in numbers:
            begin = {place.topic: self._consumer.position(place) for place in positions if place.partition == number}
            self._accounts[number] = _Account(Accountant(self._rule), begin)
        self._restore(numbers)
        self._told("assigned", positions)

    def revoked(self, places: Sequence[TopicPartition]) -> None:
        """Write what is decided, commit, forget."""
        numbers = [n for n in {place.partition for place in places} if n in self._accounts]
        self._commit(numbers)
        self._forget(places)
        self._told("revoked", places)

    def lost(self, places: Sequence[TopicPartition]) -> None:
        """Another has them; it reads the same log."""
        self._forget(places)
        self._told("lost", places)

    def _forget(self, places: Sequence[TopicPartition]) -> None:
        gone = {place.partition for place in places}
        for number in gone:
            self._accounts.pop(number, None)
        self._unread = deque(record for record in self._unread if record.partition not in gone)
        self._paused = {place for place in self._paused if place.partition not in gone}

    def _told(self, change: str, places: Iterable[TopicPartition]) -> None:
        numbers = {place.partition for place in places}
        self.monitor.rebalanced(change, numbers)
        self.monitor.partitions(len(self._accounts))
        if self._writer is not None:
            self._writer.assigned(numbers) if change == "assigned" else self._writer.revoked(numbers)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _take(self, record: LogRecord, account: _Account) -> None:
        now_ns, accountant = self._clock.monotonic_ns(), account.accountant
        if record.topic == self._results:
            self._take_result(record, account, now_ns)
            return
        message = decode_frame(record.key, record.value, record.headers, now_ns)
        frame = message.record
        claimed = self._timelines.check(message)
        account.finished.discard(frame.source_id)  # a file that is read again goes on in another epoch
        ledger = accountant.ledger(frame.source_id, frame.epoch)
        last = first_and_last(frame)[1]
        check_ahead(frame, ledger.next_seq if ledger else 0)
        if frame.source_id not in account.sources:
            account.sources.add(frame.source_id)
            live = claimed.info.kind is SourceKind.LIVE
            accountant.set_rule(frame.source_id, CloseRule(self._rule.delay_ns, self._rule.lateness_ns, live))
        accountant.timeline(claimed.claim)
        waited = [k for k in account.early if k[:2] == (frame.source_id, frame.epoch) and k[2] <= last]
        offsets = [account.early.pop(key).record.offset for key in waited]
        results_from = min([account.next[self._results], *offsets])
        account.frames.append(_OpenFrame(record.offset, results_from, frame.source_id, frame.epoch, last))
        known = ledger.next_seq if ledger else None
        self._write(record.partition, accountant.frame(frame, now_ns))
        ledger = accountant.ledger(frame.source_id, frame.epoch)
        self._counted.begin(frame.source_id, frame.pipelines)
        if ledger is not None:
            places = ledger.next_seq - (ledger.closed_below if known is None else known)
            self.monitor.metrics.inc("lockstep_stream_accepted_total", places, source=frame.source_id)

    def _take_result(self, record: LogRecord, account: _Account, now_ns: int) -> None:
        posting = decode_result(record.key, record.value, record.headers).posting
        accountant = account.accountant
        ledger = accountant.ledger(posting.key.source_id, posting.key.epoch)
        early = ledger is None or posting.key.frame_seq >= ledger.next_seq
        if early:
            account.early.setdefault(posting.key[:3], _Early(record, now_ns))
        forged = accountant.counters.forged
        self._write(record.partition, accountant.post(posting, now_ns))
        if not early and accountant.counters.forged > forged:
            raise RecordInvalid(
                f"results.frame_seq: {posting.key} with this PTS names no ledger key", field="frame_seq"
            )

    def _give_up_early(self, account: _Account, now_ns: int) -> None:
        """Results whose frame never came: the accountant forgets them at the same age, and beyond the same number."""
        over = len(account.early) - MAX_EARLY
        for n, (key, early) in enumerate(list(account.early.items())):
            if n < over or now_ns - early.since_ns > self._rule.timeout_ns:
                del account.early[key]
                error = RecordInvalid(f"results.frame_seq: {key} was never a frame", field="frame_seq")
                self._dead_letter(early.record, error)

    def _finish_ended(self, number: int, account: _Account) -> None:
        """A file's keys close when all of its frames are here and every pipeline has answered."""
        for source_id in account.sources - account.finished:
            ended = self._timelines.ended(source_id, number)
            if ended is None:
                continue
            ledgers = account.accountant.ledgers(source_id)
            answered = all(one.balance(name).in_flight == 0 for one in ledgers.values() for name in one.pipelines)
            if answered and is_whole({epoch: one.next_seq for epoch, one in ledgers.items()}, ended):
                account.finished.add(source_id)
                self._write(number, account.accountant.finish(source_id))

    def _write(self, number: int, records: Sequence[OutcomeRecord]) -> None:
        topic = self._names.topic("outcomes")
        for record in records:
            message = OutcomeMessage(record.key, record.outcome, record.closed)
            self._sender.send(topic, encode_outcome(message), number)
        self._counted.outcomes(records)

    def _dead_letter(self, record: LogRecord, error: RecordInvalid) -> None:
        letter = DeadLetter.of(record, DeadReason.SCHEMA.value, error)
        self._sender.send(self._names.topic("dead_letter"), encode_dead_letter(letter), None)
        self.dead_letters += 1
        self.monitor.refused(record.topic)
        self.monitor.metrics.inc("lockstep_role_dead_letters_total", reason=letter.reason)

    def _restore(self, numbers: Sequence[int]) -> None:
        places = [TopicPartition(self._names.topic("outcomes"), number) for number in numbers]
        for records in standing(self._log, places, RESTORE_S):
            self.monitor.turned()  # hours of a full load take minutes
            for record in records:
                with suppress(RecordInvalid):  # a stranger's: `outcomes` is the accountant's alone
                    message = decode_outcome(record.key, record.value, record.headers)
                    outcome = OutcomeRecord(message.key, message.outcome, message.closed)
                    self._accounts[record.partition].accountant.restore(outcome)

    def _commit(self, numbers: Sequence[int]) -> None:
        """As far as all is closed and written; the results as far as no open key can need them."""
        if not numbers or not self._sender.flush(10.0):
            return
        positions = {}
        for number in numbers:
            frames, results = (TopicPartition(topic, number) for topic in (self._frames, self._results))
            if {frames, results} - set(self._consumer.assignment()):
                continue
            account = self._accounts[number]
            while account.frames and self._is_closed(account, account.frames[0]):
                account.frames.popleft()
            head = account.frames[0].offset if account.frames else account.next[self._frames]
            needed = [frame.results_from for frame in account.frames] + [
                early.record.offset for early in account.early.values()
            ]
            positions[frames] = Committed(head)
            positions[results] = Committed(min([account.next[self._results], *needed]))
        try:
            self._consumer.commit(positions)
        except (CommitRefused, LogUnavailable):
            self._committed_ns = self._clock.monotonic_ns()  # the next owner, or the next second, does it
            self.monitor.metrics.inc("lockstep_role_commits_refused_total")

    def _report(self) -> None:
        """Once a second: how far behind, and the balance of each source."""
        self.monitor.behind(self._consumer)
        open_frames = sum(len(account.frames) for account in self._accounts.values())
        self.monitor.metrics.set("lockstep_role_in_flight", open_frames)
        for source_id in {name for account in self._accounts.values() for name in account.sources}:
            totals, newest = self.totals(source_id), self._timelines.register.newest(source_id)
            if newest is None:
                continue
            for name, total in totals.items():
                self.monitor.metrics.set("lockstep_ledger_in_flight", total.in_flight, source=source_id, pipeline=name)
            publish_state(self._index, "accountant", source_id, balance_fields(newest.epoch, totals))

    @staticmethod
    def _is_closed(account: _Account, frame: _OpenFrame) -> bool:
        ledger = account.accountant.ledger(frame.source_id, frame.epoch)
        return ledger is None or ledger.closed_below > frame.last_seq
