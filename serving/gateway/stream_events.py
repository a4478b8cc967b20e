"""Live events of sources: what comes to be recorded, to any number of subscribers, in the order of (epoch, pts_ns).

One thread follows the log while anybody listens. Results wait HOLD_NS for those that belong before them (several
pipelines, several workers), then go to the subscribers; one that comes later than that is found under /results only.
Each subscriber has a bounded queue of its own and costs the others nothing.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from serving.clock import NS_PER_S, Clock
from serving.errors import LockstepError, Overloaded
from serving.metrics import Metrics
from serving.ports_index import Json, Place, place_of
from serving.ports_log import RecordLog, TopicPartition
from serving.records import result_document
from serving.records.recorded import RecordedTail

logger = logging.getLogger("lockstep.streams")

HOLD_NS = NS_PER_S // 2
QUEUE = 256
SUBSCRIBERS_MOST = 256
LINGER_S = 30.0  # the thread goes on for so long without a subscriber
RETRY_S = 1.0
LOOK_S = 10.0  # between looks for partitions that were added


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its place and its lines."""

    place: Place
    data: bytes

    @classmethod
    def of(cls, document: Json) -> Event:
        """WHATWG HTML, server-sent events: id, event, data, and an empty line."""
        place = place_of(document)
        kind = str(document.get("outcome", "result"))
        name = f"{place.epoch}/{place.pts_ns}/{place.pipeline}"
        return cls(place, f"id: {name}\nevent: {kind}\ndata: ".encode() + orjson.dumps(document) + b"\n\n")


@dataclass(slots=True, eq=False)
class Subscription:
    """What one subscriber has not been sent yet. turn: the hub's, in which it began. gap: why events are missing at the
    end: overflow (it did not keep up), log (which was not followed for a while)."""

    source_id: str
    turn: int = 0
    queue: asyncio.Queue[Event] = field(default_factory=lambda: asyncio.Queue(QUEUE))
    gap: str = ""

    def put(self, events: Sequence[Event]) -> None:
        """Take what fits."""
        for event in events:
            if self.queue.full():
                self.gap = self.gap or "overflow"
            if self.gap:
                return
            self.queue.put_nowait(event)


@dataclass(slots=True)
class _Line:
    """The events of one source that wait for their turn. newest: the place that was given out last."""

    waiting: list[tuple[Place, int, Event]] = field(default_factory=list)
    newest: Place | None = None


class EventHub:
    """`subscribe` and `unsubscribe` on the event loop's thread; the log is followed by a thread of its own."""

    def __init__(self, log: RecordLog, results: str, outcomes: str, clock: Clock) -> None:
        self._log, self._results, self._outcomes, self._clock = log, results, outcomes, clock
        self.metrics: Metrics | None = None
        self._subscriptions: defaultdict[str, set[Subscription]] = defaultdict(set)
        self._wanted: frozenset[str] = frozenset()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()
        self._following = threading.Event()
        self._turn = 0  # counts how often the log was followed anew: whoever subscribed before has a gap
        self._stop = threading.Event()
        self._lines: dict[str, _Line] = {}

    def subscribe(self, source_id: str) -> Subscription:
        """From now on. Raises Overloaded."""
        if sum(map(len, self._subscriptions.values())) >= SUBSCRIBERS_MOST:
            raise Overloaded(f"{SUBSCRIBERS_MOST} subscribers are served already")
        subscription = Subscription(source_id, self._turn)
        self._subscriptions[source_id].add(subscription)
        self._loop = asyncio.get_running_loop()
        with self._guard:
            self._changed()
            if self._thread is None or not self._thread.is_alive():
                self._following.clear()
                self._thread = threading.Thread(target=self._run, name="stream-events", daemon=True)
                self._thread.start()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """No more."""
        self._subscriptions[subscription.source_id].discard(subscription)
        if not self._subscriptions[subscription.source_id]:
            del self._subscriptions[subscription.source_id]
        self._changed()

    async def following(self, timeout_s: float) -> bool:
        """The log is being followed: nothing that is recorded from now on will be missed."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not self._following.is_set() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        return self._following.is_set()

    def cut(self, reason: str) -> None:
        """A subscriber was cut."""
        if self.metrics is not None:
            self.metrics.inc("lockstep_event_cuts_total", reason=reason)

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2)

    def _changed(self) -> None:
        self._wanted = frozenset(self._subscriptions)
        if self.metrics is not None:
            self.metrics.set("lockstep_event_subscribers", sum(map(len, self._subscriptions.values())))

    # -- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._follow():
                    return
            except Exception as error:  # without this thread nobody would get an event any more
                logger.warning("live events: %s", error, exc_info=None if isinstance(error, LockstepError) else error)
            self._turn += self._following.is_set()
            self._following.clear()
            self._stop.wait(RETRY_S)

    def _follow(self) -> bool:
        """True when nobody has listened for a while, False when partitions were added: then all are begun anew."""
        partitions = self._log.partitions(self._results)
        tail = self._begin(range(partitions))
        self._lines.clear()
        self._on_loop(self._cut_before, self._turn)
        idle_since = looked = time.monotonic()
        try:
            self._following.set()
            while not self._stop.is_set():
                if self._wanted:
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > LINGER_S and self._leave():
                    return True
                if time.monotonic() - looked > LOOK_S:
                    looked = time.monotonic()
                    if self._log.partitions(self._results) != partitions:
                        return False
                for _, message in tail.poll(0.1):
                    if message.posting.pts_ns is not None and message.posting.key.source_id in self._wanted:
                        self._queue(message.posting.key.source_id, Event.of(result_document(message)))
                self._give_out()
            return True
        finally:
            tail.close()

    def _leave(self) -> bool:
        """Whoever subscribes from now on starts another thread; False where somebody just did subscribe."""
        with self._guard:
            if self._wanted:
                return False
            self._thread = None
            return True

    def _begin(self, numbers: range) -> RecordedTail:
        places = [TopicPartition(topic, n) for n in numbers for topic in (self._results, self._outcomes)]
        found = self._log.bounds(places)
        starts = {n: (found[TopicPartition(self._results, n)][1], found[TopicPartition(self._outcomes, n)][1])
                  for n in numbers}  # fmt: skip
        return RecordedTail(self._log, self._results, self._outcomes, starts, self._clock)

    def _queue(self, source_id: str, event: Event) -> None:
        line = self._lines.setdefault(source_id, _Line())
        if line.newest is not None and event.place <= line.newest:
            if self.metrics is not None:
                self.metrics.inc("lockstep_events_late_total")
            return
        heapq.heappush(line.waiting, (event.place, self._clock.monotonic_ns(), event))

    def _give_out(self) -> None:
        now_ns = self._clock.monotonic_ns()
        for source_id, line in list(self._lines.items()):
            if source_id not in self._wanted:
                del self._lines[source_id]
                continue
            # An event goes out when it has waited, and takes along what stands before it.
            ripe = max((place for place, since, _ in line.waiting if now_ns - since >= HOLD_NS), default=None)
            events: list[Event] = []
            while ripe is not None and line.waiting and line.waiting[0][0] <= ripe:
                line.newest, _, event = heapq.heappop(line.waiting)
                if not events or events[-1].place != event.place:
                    events.append(event)
            if events:
                self._on_loop(self._deliver, source_id, events)

    def _on_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    # -- the loop ---------------------------------------------------------------------------------------------------

    def _deliver(self, source_id: str, events: Sequence[Event]) -> None:
        for subscription in self._subscriptions.get(source_id, ()):
            subscription.put(events)

    def _cut_before(self, turn: int) -> None:
        """They come back, say what they had last, and get from the index what was recorded meanwhile."""
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                if subscription.turn < turn:
                    subscription.gap = subscription.gap or "log"
