"""Freshness: live sources shed rather than lag (docs/guarantees.md, G5).

The age of a frame compares PTS with PTS and monotonic time with monotonic time of this role, never one with the other.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from serving.frames import DropReason, Frame, StreamInfo

NS_PER_S = 1_000_000_000


class AgeMeter:
    """Ages within one source. Give it the header of every frame as soon as it is read."""

    __slots__ = ("_arrival_ns", "_epoch", "_pts_ns")

    def __init__(self) -> None:
        self._epoch = 0
        self._pts_ns = -1
        self._arrival_ns = 0

    def header(self, epoch: int, pts_ns: int, arrival_mono_ns: int) -> None:
        """A frame of the source was read."""
        if (epoch, pts_ns) > (self._epoch, self._pts_ns):
            self._epoch, self._pts_ns, self._arrival_ns = epoch, pts_ns, arrival_mono_ns

    def age_ns(self, epoch: int, pts_ns: int, now_ns: int) -> int | None:
        """How old the frame is here; None if its epoch is over (PTS of two epochs have no distance)."""
        if epoch != self._epoch:
            return None
        return (self._pts_ns - pts_ns) + (now_ns - self._arrival_ns)


@dataclass(frozen=True, slots=True)
class SheddingRules:
    """max_age_ns: D/2 for a source with mixed output, max(1 s, D) without; max_fps sizes the queue."""

    max_age_ns: int
    max_fps: int = 60
    live: bool = True

    @property
    def capacity(self) -> int:
        """Frames a source may have waiting."""
        return max(1, -(-self.max_age_ns * self.max_fps // NS_PER_S))


def presentation_delay_ns(info: StreamInfo, asked_ns: int) -> int:
    """D of a live source: as asked, and no less than two target durations where the source comes in segments.

    The pictures of a segment come all at once, so the last of them is a whole segment ahead of its time.
    """
    return max(asked_ns, 2 * info.segment_ns)


def max_age_ns(delay_ns: int, mixed: bool) -> int:
    """The age from which a worker drops a waiting frame of a live source."""
    return delay_ns // 2 if mixed else max(NS_PER_S, delay_ns)


Shed = tuple[Frame, DropReason]


@dataclass(slots=True)
class _Source:
    rules: SheddingRules
    age: AgeMeter = field(default_factory=AgeMeter)
    waiting: deque[Frame] = field(default_factory=deque)


class FairQueue:
    """Frames that wait for inference, by source; sources are served in turn, each in its own order.

    Live: a full queue drops its oldest frame (overload), a frame older than max_age is dropped when its turn comes
    (stale), but the newest waiting frame is always taken. Files: `room` says when to wait; nothing is dropped.
    """

    __slots__ = ("_sources", "_turns")

    def __init__(self) -> None:
        self._sources: dict[str, _Source] = {}
        self._turns: deque[str] = deque()

    def source(self, source_id: str, rules: SheddingRules) -> None:
        """A source was assigned here. Frames already waiting stay."""
        known = self._sources.get(source_id)
        if known is not None:
            known.rules = rules
            return
        self._sources[source_id] = _Source(rules)
        self._turns.append(source_id)

    def remove(self, source_id: str) -> list[Frame]:
        """A source was taken away: its waiting frames are another's now."""
        self._turns.remove(source_id)
        return list(self._sources.pop(source_id).waiting)

    def is_stale(self, frame: Frame, now_ns: int, unread_ns: int = 0) -> bool:
        """Over max_age, or of an epoch that is over. unread_ns: how far the source went on in frames not read yet."""
        source = self._sources[frame.source_id]
        age = source.age.age_ns(frame.epoch, frame.pts_ns, now_ns)
        return age is None or age + unread_ns > source.rules.max_age_ns

    def room(self, source_id: str) -> bool:
        """Always for live sources; for files while the queue is not full."""
        source = self._sources[source_id]
        return source.rules.live or len(source.waiting) < source.rules.capacity

    def put(self, frame: Frame) -> list[Shed]:
        """A frame was read; it waits if it is to be analysed. Returns what had to go; ValueError without room."""
        source = self._sources[frame.source_id]
        if not frame.analyse:
            source.age.header(frame.epoch, frame.pts_ns, frame.arrival_mono_ns)
            return []
        if not self.room(frame.source_id):
            raise ValueError(f"queue of {frame.source_id}: full at {source.rules.capacity} frames; ask `room` first")
        source.age.header(frame.epoch, frame.pts_ns, frame.arrival_mono_ns)
        source.waiting.append(frame)
        shed: list[Shed] = []
        while source.rules.live and len(source.waiting) > source.rules.capacity:
            shed.append((source.waiting.popleft(), DropReason.OVERLOAD))
        return shed

    def take(self, now_ns: int) -> tuple[Frame | None, list[Shed]]:
        """The next frame to analyse, None if none waits, and those that went stale meanwhile."""
        for _ in range(len(self._turns)):
            source = self._sources[self._turns[0]]
            self._turns.rotate(-1)
            if source.waiting:
                return self._take_from(source, now_ns)
        return None, []

    def __len__(self) -> int:
        return sum(len(source.waiting) for source in self._sources.values())

    def _take_from(self, source: _Source, now_ns: int) -> tuple[Frame, list[Shed]]:
        shed: list[Shed] = []
        while source.rules.live and len(source.waiting) > 1:
            if not self.is_stale(source.waiting[0], now_ns):
                break
            shed.append((source.waiting.popleft(), DropReason.STALE))
        return source.waiting.popleft(), shed
