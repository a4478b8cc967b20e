"""The ledger of one timeline: every frame_seq of every pipeline ends as exactly one of result, dropped, dead letter.

It keeps what is recorded, not what is shown: no picture, no boxes. Keys close in the order of frame_seq, so the closed
ones are a prefix and cost nothing but a number. A long hole costs nothing but a number either.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import Enum

from serving.align.merge import merge
from serving.frames import DropReason, Outcome, Status

UNKNOWN_PTS = -1  # of a frame whose record was deleted unread: it takes what it is given


class Posted(Enum):
    """What became of an outcome that was posted."""

    FIRST = "first"  # the key was empty
    RAISED = "raised"  # it outranked the one recorded
    UNCHANGED = "unchanged"  # equal or lower rank: recorded outcome stays
    EXPIRED = "expired"  # the key is closed: counted only
    UNKNOWN = "unknown"  # no such frame, no such pipeline, or another frame's PTS


@dataclass(frozen=True, slots=True)
class Balance:
    """accepted = results + dropped + dead + in_flight, always; not_sampled is counted apart and is no loss."""

    accepted: int
    results: int
    dropped: int
    dead: int
    in_flight: int
    not_sampled: int
    reasons: tuple[tuple[str, int], ...]

    def __add__(self, other: Balance) -> Balance:
        reasons = Counter(dict(self.reasons)) + Counter(dict(other.reasons))
        return Balance(
            self.accepted + other.accepted,
            self.results + other.results,
            self.dropped + other.dropped,
            self.dead + other.dead,
            self.in_flight + other.in_flight,
            self.not_sampled + other.not_sampled,
            tuple(sorted(reasons.items())),
        )

    @property
    def holds(self) -> bool:
        """The sums add up."""
        by_reason = sum(count for _, count in self.reasons)
        total = self.results + self.dropped + self.dead
        return self.accepted == total + self.in_flight and by_reason == self.dropped + self.dead

    @property
    def analysed_share(self) -> float:
        """results / (accepted - not_sampled); 1 where nothing was to be analysed."""
        wanted = self.accepted - self.not_sampled
        return self.results / wanted if wanted else 1.0


EMPTY_BALANCE = Balance(0, 0, 0, 0, 0, 0, ())


@dataclass(slots=True)
class Closed:
    """What was closed of a timeline before a restart, told in the order of the log.

    Keys close in order, so all but the newest are whole and only their sums are kept; of the first retention may have
    taken a part.
    """

    first_seq: int = -1
    first: dict[str, Outcome] = field(default_factory=dict)
    counts: dict[str, Counter[tuple[Status, str]]] = field(default_factory=dict)  # of what lies between, by pipeline
    newest_seq: int = -1
    newest: dict[str, Outcome] = field(default_factory=dict)
    later: dict[int, dict[str, Outcome]] = field(default_factory=dict)  # behind a run of places without records

    def add(self, seq: int, pipeline: str, outcome: Outcome) -> None:
        """A key that was closed; the first time counts."""
        if self.first_seq < 0:
            self.first_seq = self.newest_seq = seq
        if seq == self.newest_seq + 1 and not self.later:
            self._fold()
        if seq == self.newest_seq:
            self.newest.setdefault(pipeline, outcome)
        elif seq > self.newest_seq:
            self.later.setdefault(seq, {}).setdefault(pipeline, outcome)

    def _fold(self) -> None:
        if self.newest_seq == self.first_seq:
            self.first = self.newest
        else:
            for pipeline, outcome in self.newest.items():
                self.counts.setdefault(pipeline, Counter())[outcome.status, outcome.reason] += 1
        self.newest_seq, self.newest = self.newest_seq + 1, {}


@dataclass(slots=True)
class _Entry:
    received_ns: int
    pts_ns: int | None
    outcomes: dict[str, Outcome]
    closed: frozenset[str]  # pipelines that were closed before a restart


@dataclass(frozen=True, slots=True)
class _Run:
    first_seq: int
    places: int


class TimelineLedger:
    """Ledger of (source_id, epoch). Places are given in order and without holes."""

    def __init__(self, pipelines: tuple[str, ...]) -> None:
        self.pipelines = pipelines
        self._entries: deque[_Entry] = deque()
        self._runs: deque[_Run] = deque()
        self._in_runs = 0  # places of `_runs`
        self._closed_below = 0
        self._forgotten = 0  # closed before a restart and no longer on the log: in no sum
        self._restored: dict[int, dict[str, Outcome]] = {}
        self._counts: dict[str, Counter[tuple[Status, str]]] = {p: Counter() for p in pipelines}

    @property
    def next_seq(self) -> int:
        """The place of the next frame: max_seq + 1, which is the number of accepted frames."""
        return self._closed_below + len(self._entries) + self._in_runs

    @property
    def closed_below(self) -> int:
        """Every key below this frame_seq is closed."""
        return self._closed_below

    def accept(self, now_ns: int, pts_ns: int | None) -> int:
        """A place for the next frame, received now; pts_ns None where it has none, UNKNOWN_PTS if nobody can tell."""
        closed = self._restored.pop(self.next_seq, {})
        self._count(closed)
        self._entries.append(_Entry(now_ns, pts_ns, dict(closed), frozenset(closed)))
        return self.next_seq - 1

    def accept_run(self, places: int, reason: DropReason) -> None:
        """The next `places` places, all lost for one reason and closed at once: one number, however many they are."""
        dropped = Outcome.dropped(reason)
        self._runs.append(_Run(self.next_seq, places))
        self._in_runs += places
        for pipeline in self.pipelines:
            self._counts[pipeline][dropped.status, dropped.reason] += places
        self._restored = {seq: closed for seq, closed in self._restored.items() if seq >= self.next_seq}
        self._close_runs()

    def restore(self, closed: Closed) -> None:
        """After a restart, before the first frame: the keys that were closed before.

        A crash may have cut their writing short, so that some pipelines of a frame are closed and others not. Retention
        may have taken the oldest ones: keys close in order, so what lies below the first one left was closed as well.
        """
        if closed.first_seq < 0:
            return
        cut = bool(closed.first) and len(closed.first) < len(self.pipelines)  # deleted between two pipelines
        self._forgotten = closed.first_seq + cut
        if not cut:
            self._count(closed.first)
        for pipeline in self.pipelines:
            self._counts[pipeline] += closed.counts.get(pipeline, Counter())
        self._closed_below, self._restored = closed.newest_seq, dict(closed.later)
        if len(closed.newest) == len(self.pipelines):
            self._closed_below += 1
            self._count(closed.newest)
        else:
            self._restored[closed.newest_seq] = closed.newest

    def _count(self, outcomes: dict[str, Outcome]) -> None:
        for pipeline, outcome in outcomes.items():
            if pipeline not in self._counts:
                continue  # a stranger's record: an epoch's pipelines are fixed
            self._counts[pipeline][outcome.status, outcome.reason] += 1

    def post(self, seq: int, pipeline: str, pts_ns: int | None, outcome: Outcome) -> Posted:
        """Merge an outcome into its key. A PTS that is not the frame's makes the posting a forgery."""
        if pipeline not in self._counts or seq >= self.next_seq or seq < 0:
            return Posted.UNKNOWN
        entry = self._entry(seq)
        if entry is None:
            return Posted.EXPIRED
        if pts_ns != entry.pts_ns and entry.pts_ns != UNKNOWN_PTS:
            return Posted.UNKNOWN
        if pipeline in entry.closed:
            return Posted.EXPIRED
        outcomes = entry.outcomes
        known = outcomes.get(pipeline)
        merged = merge(known, outcome)
        if merged is known:
            return Posted.UNCHANGED
        outcomes[pipeline] = merged
        count = self._counts[pipeline]
        count[merged.status, merged.reason] += 1
        if known is None:
            return Posted.FIRST
        count[known.status, known.reason] -= 1
        return Posted.RAISED

    def fill_oldest(self, outcome: Outcome) -> None:
        """Give the pipelines that have not answered for the oldest open key this outcome."""
        outcomes = self._entries[0].outcomes
        for pipeline in self.pipelines:
            if pipeline not in outcomes:
                outcomes[pipeline] = outcome
                self._counts[pipeline][outcome.status, outcome.reason] += 1

    def outcome(self, seq: int, pipeline: str) -> Outcome | None:
        """What is recorded of an open key; None if it is empty or closed."""
        entry = self._entry(seq)
        return None if entry is None else entry.outcomes.get(pipeline)

    def due_ns(self) -> int | None:
        """When the oldest open key was received; None if all are closed."""
        return self._entries[0].received_ns if self._entries else None

    def close_oldest(self) -> tuple[int, dict[str, Outcome]]:
        """Close the oldest key and return its frame_seq with what it holds; the caller fills it first."""
        entry = self._entries.popleft()
        seq, self._closed_below = self._closed_below, self._closed_below + 1
        self._close_runs()
        return seq, entry.outcomes

    def is_terminal(self, seq: int) -> bool:
        """Every pipeline has an outcome."""
        entry = self._entry(seq)
        return seq < self.next_seq if entry is None else len(entry.outcomes) == len(self.pipelines)

    def balance(self, pipeline: str) -> Balance:
        """The sums of one pipeline."""
        count = self._counts[pipeline]
        sums = {s: sum(n for (status, _), n in count.items() if status is s) for s in Status}
        reasons = tuple(sorted((reason, n) for (_, reason), n in count.items() if reason and n))
        accepted = self.next_seq - self._forgotten
        return Balance(
            accepted=accepted,
            results=sums[Status.RESULT],
            dropped=sums[Status.DROPPED],
            dead=sums[Status.DEAD_LETTER],
            in_flight=accepted - sum(sums.values()),
            not_sampled=count[Status.DROPPED, "not_sampled"],
            reasons=reasons,
        )

    def _entry(self, seq: int) -> _Entry | None:
        """The open entry of a place; None where it is closed, lost in a run, or not there yet."""
        place = seq - self._closed_below
        for run in self._runs:
            if seq < run.first_seq:
                break
            if seq < run.first_seq + run.places:
                return None
            place -= run.places
        return self._entries[place] if 0 <= place < len(self._entries) else None

    def _close_runs(self) -> None:
        while self._runs and self._runs[0].first_seq == self._closed_below:
            places = self._runs.popleft().places
            self._closed_below, self._in_runs = self._closed_below + places, self._in_runs - places
