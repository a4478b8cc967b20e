"""Follows `streams` and keeps a child process for each source of its partitions (`serving.roles.ingest_fleet`).

Several of these share the sources as members of one group: a source belongs to whoever has its partition of `streams`.
Nothing is ever committed: whoever gets a partition reads it from the beginning, to its end, and then acts. A dead
member's partitions come to others after the session timeout, whose children open higher epochs; a child of the old one
that still lives is fenced by those (docs/alignment.md). A broker that is away ends nothing: children keep their frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from serving.clock import NS_PER_S, Clock
from serving.errors import LogUnavailable, RecordInvalid
from serving.ports_log import Assignor, Committed, GroupOptions, LogRecord, RecordLog, Start, TopicPartition
from serving.records import StreamMessage, decode_stream
from serving.roles.ingest_fleet import Fleet
from serving.roles.monitor import RoleMonitor
from serving.roles.names import Names
from serving.roles.timelines import Timelines

LOST_GRACE_NS = 3 * NS_PER_S
REVOKE_GRACE_S = 2.0


@dataclass(slots=True)
class _Part:
    """One partition of `streams`. end: its records were all read once this offset is reached; None: not asked yet.

    sources: as the log says. news: those whose record came after the partition was read, so that a source that is over
    begins again when it is registered again.
    """

    end: int | None = None
    acted: bool = False
    sources: dict[str, StreamMessage] = field(default_factory=dict)
    news: set[str] = field(default_factory=set)


class IngestSupervisor:
    """Call `step` from one thread until told to stop, then `close`."""

    def __init__(
        self, log: RecordLog, names: Names, fleet: Fleet, clock: Clock, monitor: RoleMonitor,
        wait: Callable[[float], object], member: str = "",
    ) -> None:  # fmt: skip
        """wait(seconds): sleep."""
        self._wait = wait
        self._topic, self._clock, self._monitor, self.fleet = names.topic("streams"), clock, monitor, fleet
        self._timelines = Timelines(log, names)
        self._parts: dict[TopicPartition, _Part] = {}
        self._lost: dict[TopicPartition, int | None] = {}  # taken from us; when to let its sources go, None: not yet
        self._owner: dict[str, TopicPartition] = {}
        options = GroupOptions(names.group("ingest"), Assignor.COOPERATIVE_STICKY, Start.BEGINNING, member)
        self._log = log
        self._consumer = log.consumer([self._topic], options, self)

    # -- the loop ---------------------------------------------------------------------------------------------------

    def step(self, timeout_s: float = 0.1) -> None:
        """Read what was registered, act on it, look after the children."""
        self._timelines.poll()
        polled = self._consumer.poll(timeout_s)
        self._monitor.polled(polled)
        for record in polled.records:
            self._take(record)
        with suppress(LogUnavailable):  # it is asked again
            self._look_at_ends()
            for place, part in list(self._parts.items()):
                self._act(place, part)
        self._let_lost_go()
        self.fleet.hold(frozenset(source_id for place in self._lost for source_id in self._sources_of(place)))
        self.fleet.tick()

    def close(self, grace_s: float = 2.5) -> None:
        """Hand all sources over, leave the group."""
        self.fleet.close(grace_s)
        while self.fleet.reap():
            self._wait(0.02)
        self._consumer.close()
        self._timelines.close()

    # -- partitions come and go -------------------------------------------------------------------------------------

    def assigned(self, positions: Mapping[TopicPartition, Committed | None]) -> None:
        """Read each from its beginning; what still runs of a partition that was lost goes on."""
        for place in positions:
            self._parts[place] = _Part()
            self._lost.pop(place, None)
        for place in self._lost:
            self._lost[place] = self._clock.monotonic_ns() + LOST_GRACE_NS
        self._monitor.rebalanced("assigned", positions)
        self._monitor.partitions(len(self._parts))

    def revoked(self, places: Sequence[TopicPartition]) -> None:
        """Another member gets these when this returns: their children end first, as far as they do so quickly."""
        for place in places:
            self._parts.pop(place, None)
            for source_id in self._sources_of(place):
                self._owner.pop(source_id, None)
                self.fleet.drop(source_id, over=False)
        until_ns = self._clock.monotonic_ns() + int(REVOKE_GRACE_S * NS_PER_S)
        while self.fleet.reap() and self._clock.monotonic_ns() < until_ns:
            self._wait(0.02)
        self._monitor.rebalanced("revoked", places)
        self._monitor.partitions(len(self._parts))

    def lost(self, places: Sequence[TopicPartition]) -> None:
        """This process was silent for too long, or the broker was. Its children go on until others' epochs fence them,
        or until this one is back in its group without them."""
        for place in places:
            self._parts.pop(place, None)
            self._lost[place] = None
        self._monitor.rebalanced("lost", places)
        self._monitor.partitions(len(self._parts))

    # -- inside -----------------------------------------------------------------------------------------------------

    def _take(self, record: LogRecord) -> None:
        part = self._parts.get(record.place)
        if part is None:
            return
        try:
            stream = decode_stream(record.key, record.value, record.headers)
        except RecordInvalid as error:
            self._monitor.refused(record.topic)
            self._monitor.wrong("streams", f"a record was refused: {error}")
            return
        source_id = (record.key or b"").decode()
        if stream is None or not stream.active:
            part.sources.pop(source_id, None)
        else:
            part.sources[source_id] = stream
        if part.acted:
            part.news.add(source_id)

    def _look_at_ends(self) -> None:
        """Of what is new to us: how far it has to be read, and, before it is acted on, whose epoch is the newest. For
        all partitions at once: a start or a takeover waits for it. Raises LogUnavailable."""
        new = [place for place, part in self._parts.items() if part.end is None]
        for place, (_, end) in self._log.bounds(new).items() if new else ():
            self._parts[place].end = end
        if any(not part.acted and self._is_read(place, part) for place, part in self._parts.items()):
            self._timelines.catch_up()

    def _is_read(self, place: TopicPartition, part: _Part) -> bool:
        return part.end is not None and self._consumer.position(place) >= part.end

    def _act(self, place: TopicPartition, part: _Part) -> None:
        """Once a partition was read to its end: make the fleet what it says."""
        if not self._is_read(place, part) or (part.acted and not part.news):
            return
        for source_id in self._sources_of(place):
            stream = part.sources.get(source_id)
            if stream is None or not stream.supervised:
                del self._owner[source_id]
                self.fleet.drop(source_id, over=stream is None)
        for source_id, stream in part.sources.items():
            if stream.supervised and (not part.acted or source_id in part.news):
                named = source_id in part.news
                over = not named and self._timelines.ended(source_id) is not None
                self._owner[source_id] = place
                # Fenced while the partition was another's, or nobody's: it is ours again, and so is the source.
                self.fleet.want(stream, over, again=named or not over)
        part.acted = True
        part.news.clear()

    def _sources_of(self, place: TopicPartition) -> list[str]:
        return [source_id for source_id, owner in self._owner.items() if owner == place]

    def _let_lost_go(self) -> None:
        now_ns = self._clock.monotonic_ns()
        for place, until_ns in list(self._lost.items()):
            if until_ns is not None and now_ns >= until_ns:
                del self._lost[place]
                for source_id in self._sources_of(place):
                    del self._owner[source_id]
                    self.fleet.drop(source_id, over=False)
