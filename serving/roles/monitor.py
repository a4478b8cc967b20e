"""What a role says of itself: state, reasons not to be ready, metrics. Written by the loop, read by the page."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sized
from enum import Enum

from serving.clock import NS_PER_S, Clock
from serving.frames import DeadReason
from serving.metrics import OTHER, Metrics
from serving.ports_log import LogReader, Polled

SOURCES_MOST = 200  # series with a source's name; what comes after them is counted as `other`
REPORT_NS = NS_PER_S
COMPLAINTS_MOST = 1000
_TOPIC_COUNTERS = tuple(f"lockstep_role_{what}_total" for what in ("records", "refused", "deleted_unread"))
_DEAD = ("lockstep_role_dead_letters_total", "reason", tuple(reason.value for reason in DeadReason))
_CHANGES = ("lockstep_role_rebalances_total", "change", ("assigned", "revoked", "lost"))


def _reads(*topics: str) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    return tuple((name, "topic", topics) for name in _TOPIC_COUNTERS)


BEFORE_ANYTHING = {  # by role: counters that stand at 0 from the start, with their label and its values
    "ingest": _reads("streams"),
    "worker": (*_reads("frames"), _DEAD, _CHANGES),
    "mixer": _reads("frames", "results"),
    "accountant": (*_reads("frames", "results"), _DEAD),
}
STUCK_NS = 120 * NS_PER_S


class RoleState(Enum):
    """starting: not in its group yet. idle: in its group, without a partition. draining: told to stop."""

    STARTING = "starting"
    IDLE = "idle"
    WORKING = "working"
    DRAINING = "draining"


class RoleMetrics(Metrics):
    """The metrics of one role; the number of sources with series of their own is bounded."""

    def __init__(self) -> None:
        super().__init__()
        self._sources: set[str] = set()

    def inc(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        super().inc(name, amount, **self._capped(labels))

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Put one value into a histogram."""
        super().observe(name, value, **self._capped(labels))

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        super().set(name, value, **self._capped(labels))

    def prepare(self, name: str, **labels: str) -> None:
        """Make a series at 0."""
        super().prepare(name, **self._capped(labels))

    def _capped(self, labels: dict[str, str]) -> dict[str, str]:
        source = labels.get("source")
        if source is None or source in self._sources:
            return labels
        if len(self._sources) < SOURCES_MOST:
            self._sources.add(source)
            return labels
        return {**labels, "source": OTHER}


class RoleMonitor:
    """One role of one process. prefix: of topic names, so that labels are those of docs/kafka.md."""

    def __init__(self, role: str, clock: Clock, prefix: str = "") -> None:
        self.role, self.metrics = role, RoleMetrics()
        self._clock, self._prefix = clock, prefix
        self._guard = threading.Lock()
        self._state = RoleState.STARTING
        self._reasons: dict[str, str] = {}
        self._said: dict[str, str] = {}
        self._turned_ns = self._reported_ns = clock.monotonic_ns()
        self.metrics.set("lockstep_role_ready", 0)
        self.metrics.set("lockstep_role_partitions", 0)
        for name, label, values in BEFORE_ANYTHING.get(role, ()):
            for value in values:
                self.metrics.prepare(name, **{label: value})

    # -- told by the loop ---------------------------------------------------------------------------------------------

    def turned(self) -> bool:
        """The loop went round. True about once a second: report what takes time to find out."""
        now_ns = self._turned_ns = self._clock.monotonic_ns()
        if now_ns - self._reported_ns < REPORT_NS:
            return False
        self._reported_ns = now_ns
        self.metrics.set("lockstep_role_ready", not self.not_ready())
        return True

    def state(self, state: RoleState) -> None:
        """What the role is doing; a role that drains stays so."""
        with self._guard:
            if self._state is not RoleState.DRAINING:
                self._state = state

    def wrong(self, what: str, why: str) -> None:
        """Not ready because of this, until `right`."""
        with self._guard:
            self._reasons[what] = why

    def right(self, what: str) -> None:
        """This is no reason any more."""
        with self._guard:
            self._reasons.pop(what, None)

    def complain(self, about: str, what: str) -> None:
        """One line on stderr for each new complaint about a thing; a thousand things at most."""
        if self._said.get(about) == what:
            return
        if len(self._said) >= COMPLAINTS_MOST:
            self._said.clear()
        self._said[about] = what
        print(f"{self.role}: {about}: {what}", file=sys.stderr, flush=True)  # noqa: T201

    def partitions(self, count: int) -> None:
        """How many partition numbers are ours now."""
        self.state(RoleState.WORKING if count else RoleState.IDLE)
        self.metrics.set("lockstep_role_partitions", count)

    def rebalanced(self, change: str, places: Sized) -> None:
        """These partitions were assigned, revoked or lost."""
        self.metrics.inc("lockstep_role_rebalances_total", len(places), change=change)

    def polled(self, polled: Polled) -> None:
        """What one poll gave."""
        for record in polled.records:
            self.metrics.inc("lockstep_role_records_total", topic=self._short(record.topic))
        for lost in polled.lost:
            self.metrics.inc("lockstep_role_deleted_unread_total", lost.count, topic=self._short(lost.place.topic))
            where = f"{lost.place.topic}/{lost.place.partition}"
            self.complain(where, f"offsets {lost.first} to {lost.last} were deleted before they were read: retention")

    def refused(self, topic: str) -> None:
        """A record is not what docs/kafka.md says."""
        self.metrics.inc("lockstep_role_refused_total", topic=self._short(topic))

    def behind(self, reader: LogReader) -> None:
        """How far the role is behind the log."""
        sums: dict[str, int] = {}
        for place, count in reader.lag().items():
            sums[place.topic] = sums.get(place.topic, 0) + count
        for topic, count in sums.items():
            self.metrics.set("lockstep_role_lag_records", count, topic=self._short(topic))

    # -- asked by the page --------------------------------------------------------------------------------------------

    def not_ready(self) -> list[str]:
        """Why this role cannot do its work now; nothing where it can. An idle role is ready to take a partition."""
        with self._guard:
            why = [f"{what}: {reason}" for what, reason in sorted(self._reasons.items())]
            if self._state in (RoleState.STARTING, RoleState.DRAINING):
                why.insert(0, f"{self.role}: {self._state.value}")
            return why

    def is_stuck(self) -> bool:
        """The loop has not gone round for two minutes."""
        return self._clock.monotonic_ns() - self._turned_ns > STUCK_NS

    def document(self) -> dict[str, object]:
        """The answer of /readyz."""
        why = self.not_ready()
        with self._guard:
            return {"role": self.role, "state": self._state.value, "ready": not why, "reasons": why}

    def _short(self, topic: str) -> str:
        return topic.removeprefix(self._prefix)
