"""The accountant: owns the merge of a partition, closes keys, keeps the balance (docs/alignment.md, "Two freezes").

It reads timelines, frame records and postings, and returns the records of `outcomes`. Reading a log again from any
earlier point gives the same records, because places are numbered and the merge may repeat. Memory is bounded: open keys
live until close, early postings in a queue of fixed size, a long hole is one number, of old epochs only sums stay.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from serving.align.ledger import EMPTY_BALANCE, UNKNOWN_PTS, Balance, Closed, Posted, TimelineLedger
from serving.frames import DroppedRun, DropReason, FrameRecord, LedgerKey, Outcome, Posting, TimelineRecord

NS_PER_S = 1_000_000_000
MAX_EARLY = 8192  # frames
MAX_EARLY_PER_FRAME = 64
EPOCHS_KEPT = 64
MAX_SINGLE = 65_536  # places of one hole or run that get records of their own: half an hour at 36 fps


@dataclass(frozen=True, slots=True)
class OutcomeRecord:
    """A record of `outcomes`: what a key is recorded as. After one with closed nothing about the key changes."""

    key: LedgerKey
    outcome: Outcome
    closed: bool = False


@dataclass(slots=True)
class AccountCounters:
    """Postings by what became of them; forged ones name no ledger key and belong on `dead_letter`."""

    posted: Counter[Posted] = field(default_factory=Counter)
    forged: int = 0
    repeated_frames: int = 0
    run_places: int = 0  # places of holes and runs too long for records of their own: in the sums only


@dataclass(frozen=True, slots=True)
class CloseRule:
    """A live source's key closes max(60 s, D + L) after its frame record came in; a file's or job's at its end."""

    delay_ns: int = NS_PER_S // 4
    lateness_ns: int = 2 * NS_PER_S
    live: bool = True

    @property
    def timeout_ns(self) -> int:
        """Nanoseconds from receipt to close."""
        return max(60 * NS_PER_S, self.delay_ns + self.lateness_ns)


class Accountant:
    """Merge, accounting and close for every source of one partition."""

    ledger_class: type[TimelineLedger] = TimelineLedger

    def __init__(self, rule: CloseRule | None = None) -> None:
        self.counters = AccountCounters()
        self.forged: deque[Posting] = deque(maxlen=1024)
        self._rule = rule or CloseRule()
        self._rules: dict[str, CloseRule] = {}
        self._sources: dict[str, dict[int, TimelineLedger]] = {}
        self._pipelines: dict[tuple[str, int], tuple[str, ...]] = {}
        self._newest: dict[str, int] = {}
        self._early: OrderedDict[tuple[str, int, int], list[tuple[int, Posting]]] = OrderedDict()
        self._restored: dict[tuple[str, int], Closed] = {}
        self._archive: dict[tuple[str, str], Balance] = {}
        self._archived_below: dict[str, int] = {}

    # -- what the role calls ----------------------------------------------------------------------------------------

    def set_rule(self, source_id: str, rule: CloseRule) -> None:
        """The close rule of one source, where it differs from the default."""
        self._rules[source_id] = rule

    def restore(self, record: OutcomeRecord) -> None:
        """After a restart, before anything else is read: a record of `outcomes` from before."""
        key = record.key
        if record.closed:
            epoch = self._restored.setdefault((key.source_id, key.epoch), Closed())
            epoch.add(key.frame_seq, key.pipeline, record.outcome)
            self._newest[key.source_id] = max(key.epoch, self._newest.get(key.source_id, 0))

    def timeline(self, record: TimelineRecord) -> None:
        """The claim of an epoch: its pipelines are fixed from here on."""
        self._pipelines.setdefault((record.source_id, record.epoch), record.pipelines)

    def frame(self, record: FrameRecord, now_ns: int) -> list[OutcomeRecord]:
        """A record of `frames`. Holes before it were deleted unread (retention); places seen before are skipped.

        Of more than MAX_SINGLE places at once no records come; they are closed there and then, and in the sums.
        """
        source_id, epoch = record.source_id, record.epoch
        if epoch < self._archived_below.get(source_id, 0):
            self.counters.repeated_frames += 1
            return []
        ledger = self._ledger(source_id, epoch, record.pipelines)
        first, last, pts_ns = _places(record)
        self.counters.repeated_frames += last < ledger.next_seq
        out: list[OutcomeRecord] = []
        if first - ledger.next_seq > MAX_SINGLE:
            self._run(ledger, first - ledger.next_seq, DropReason.RETENTION)
        while ledger.next_seq < first:
            out += self._accept(source_id, epoch, ledger, UNKNOWN_PTS, DropReason.RETENTION, now_ns)
        if isinstance(record, DroppedRun) and last - ledger.next_seq >= MAX_SINGLE:
            self._run(ledger, last - ledger.next_seq + 1, record.reason)
        while ledger.next_seq <= last:
            out += self._accept(source_id, epoch, ledger, pts_ns, self._reason(record), now_ns)
        return out

    def post(self, posting: Posting, now_ns: int) -> list[OutcomeRecord]:
        """A record of `results`. One that comes before its frame record waits for it."""
        key = posting.key
        if key.epoch < self._archived_below.get(key.source_id, 0):
            self.counters.posted[Posted.EXPIRED] += 1
            return []
        ledger = self._sources.get(key.source_id, {}).get(key.epoch)
        if ledger is None or key.frame_seq >= ledger.next_seq:
            self._wait(posting, now_ns)
            return []
        return self._merge(ledger, posting)

    def tick(self, now_ns: int, all_read: bool = True) -> list[OutcomeRecord]:
        """Close what is due; give up postings whose frame never came. all_read: False while frames are to be read."""
        out: list[OutcomeRecord] = []
        for source_id, ledgers in self._sources.items():
            rule = self._rules.get(source_id, self._rule)
            if rule.live:
                for epoch, ledger in ledgers.items():
                    out += _close(source_id, epoch, ledger, now_ns - rule.timeout_ns)
                self._archive_old(source_id, ledgers)
        while all_read and self._early and now_ns - next(iter(self._early.values()))[0][0] > self._rule.timeout_ns:
            self._forge_oldest()
        return out

    def finish(self, source_id: str) -> list[OutcomeRecord]:
        """The source's input ended and every stage has answered: close all its keys."""
        out: list[OutcomeRecord] = []
        for epoch, ledger in self._sources.get(source_id, {}).items():
            out += _close(source_id, epoch, ledger, None)
        for key in [key for key in self._early if key[0] == source_id]:
            for _, posting in self._early.pop(key):
                self._forged(posting)
        return out

    def balance(self, source_id: str, pipeline: str) -> dict[int, Balance]:
        """The sums of one pipeline by epoch, newest epochs only; `total` has all."""
        ledgers = self.ledgers(source_id)
        return {epoch: ledger.balance(pipeline) for epoch, ledger in ledgers.items() if pipeline in ledger.pipelines}

    def total(self, source_id: str, pipeline: str) -> Balance:
        """The sums of one pipeline over all epochs seen."""
        sums = self._archive.get((source_id, pipeline), EMPTY_BALANCE)
        for balance in self.balance(source_id, pipeline).values():
            sums = sums + balance
        return sums

    def ledgers(self, source_id: str) -> Mapping[int, TimelineLedger]:
        """Those that are kept, by epoch; after a restart, of the epochs that a frame was read of since."""
        return self._sources.get(source_id, {})

    def ledger(self, source_id: str, epoch: int) -> TimelineLedger | None:
        """The ledger of one timeline; None if it is unknown or so old that only its sums are kept."""
        return self.ledgers(source_id).get(epoch)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _ledger(self, source_id: str, epoch: int, pipelines: tuple[str, ...]) -> TimelineLedger:
        ledgers = self._sources.setdefault(source_id, {})
        if epoch not in ledgers:
            ledger = ledgers[epoch] = self.ledger_class(self._pipelines.pop((source_id, epoch), pipelines))
            ledger.restore(self._restored.pop((source_id, epoch), Closed()))
        self._newest[source_id] = max(epoch, self._newest.get(source_id, 0))
        return ledgers[epoch]

    def _reason(self, record: FrameRecord) -> DropReason | None:
        if isinstance(record, DroppedRun):
            return record.reason
        if record.epoch < self._newest[record.source_id]:
            return DropReason.FENCED
        return None if record.analyse else DropReason.NOT_SAMPLED

    def _run(self, ledger: TimelineLedger, places: int, reason: DropReason) -> None:
        """Early postings for these places are given up with all others whose frame never comes."""
        ledger.accept_run(places, reason)
        self.counters.run_places += places

    def _accept(
        self,
        source_id: str,
        epoch: int,
        ledger: TimelineLedger,
        pts_ns: int | None,
        reason: DropReason | None,
        now_ns: int,
    ) -> list[OutcomeRecord]:
        seq = ledger.accept(now_ns, pts_ns)
        postings = [posting for _, posting in self._early.pop((source_id, epoch, seq), [])]
        if reason is not None:
            keys = (LedgerKey(source_id, epoch, seq, pipeline) for pipeline in ledger.pipelines)
            postings += [Posting(key, pts_ns, Outcome.dropped(reason)) for key in keys]
        return [record for posting in postings for record in self._merge(ledger, posting)]

    def _merge(self, ledger: TimelineLedger, posting: Posting) -> list[OutcomeRecord]:
        key = posting.key
        posted = ledger.post(key.frame_seq, key.pipeline, posting.pts_ns, posting.outcome)
        self.counters.posted[posted] += 1
        if posted is Posted.UNKNOWN:
            self._forged(posting)
        return [OutcomeRecord(key, posting.outcome)] if posted in (Posted.FIRST, Posted.RAISED) else []

    def _wait(self, posting: Posting, now_ns: int) -> None:
        if len(self._early) >= MAX_EARLY and posting.key[:3] not in self._early:
            self._forge_oldest()
        waiting = self._early.setdefault(posting.key[:3], [])
        if len(waiting) < MAX_EARLY_PER_FRAME:
            waiting.append((now_ns, posting))
        else:
            self._forged(posting)

    def _forge_oldest(self) -> None:
        for _, posting in self._early.popitem(last=False)[1]:
            self._forged(posting)

    def _forged(self, posting: Posting) -> None:
        self.counters.forged += 1
        self.forged.append(posting)

    def _archive_old(self, source_id: str, ledgers: dict[int, TimelineLedger]) -> None:
        """Keep the sums of closed epochs only, so that a source that reconnects all day costs no memory."""
        for epoch in sorted(ledgers)[:-EPOCHS_KEPT]:
            if ledgers[epoch].due_ns() is not None:
                return
            ledger = ledgers.pop(epoch)
            self._archived_below[source_id] = epoch + 1
            for pipeline in ledger.pipelines:
                known = self._archive.get((source_id, pipeline), EMPTY_BALANCE)
                self._archive[source_id, pipeline] = known + ledger.balance(pipeline)


def _places(record: FrameRecord) -> tuple[int, int, int | None]:
    if isinstance(record, DroppedRun):
        return record.first_seq, record.last_seq, None
    return record.frame_seq, record.frame_seq, record.pts_ns


def _close(source_id: str, epoch: int, ledger: TimelineLedger, received_by: int | None) -> list[OutcomeRecord]:
    out: list[OutcomeRecord] = []
    while (received := ledger.due_ns()) is not None and (received_by is None or received <= received_by):
        ledger.fill_oldest(Outcome.dropped(DropReason.DEADLINE))
        seq, outcomes = ledger.close_oldest()
        for pipeline, outcome in outcomes.items():
            out.append(OutcomeRecord(LedgerKey(source_id, epoch, seq, pipeline), outcome, closed=True))
    return out
