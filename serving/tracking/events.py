"""Events of tracks: appear, leave, zone enter, zone leave, line cross. A pure fold over one timeline's tracked results.

Each is debounced: what a track's foot (middle of the lower edge of its box) does must hold for `settle_s` before it is
told, so that a box that trembles on a border tells nothing, or one thing. The event carries the PTS at which it began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from serving.errors import ParameterInvalid
from serving.types import Detections

Point = tuple[float, float]


class EventKind(Enum):
    """What happened."""

    APPEAR = "appear"
    LEAVE = "leave"
    ZONE_ENTER = "zone_enter"
    ZONE_LEAVE = "zone_leave"
    LINE_CROSS = "line_cross"


@dataclass(frozen=True, slots=True)
class TrackEvent:
    """pts_ns: when it began; told_ns: the PTS of the frame that settled it. place: name of the zone or line.

    direction, of a line: `left` or `right`, the side the track went to, seen along the line from its first point.
    """

    kind: EventKind
    track_id: int
    class_id: int
    pts_ns: int
    told_ns: int
    place: str = ""
    direction: str = ""

    def to_document(self, labels: Sequence[str] = ()) -> dict[str, Any]:
        """As a line of `--events` tells it."""
        label = labels[self.class_id] if 0 <= self.class_id < len(labels) else None
        told = {"event": self.kind.value, "track_id": self.track_id, "class_id": self.class_id, "label": label}
        told |= {"pts_ns": self.pts_ns, "told_ns": self.told_ns}
        place = "line" if self.kind is EventKind.LINE_CROSS else "zone"
        return told | ({place: self.place} if self.place else {}) | ({"to": self.direction} if self.direction else {})


@dataclass(frozen=True, slots=True)
class EventRules:
    """zones: polygons in source pixels by name; lines: two points by name. settle_s: debounce; lost_s: how long a track
    may be unseen before it has left.
    """

    zones: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)
    lines: Mapping[str, tuple[Point, Point]] = field(default_factory=dict)
    settle_s: float = 0.2
    lost_s: float = 1.0

    def __post_init__(self) -> None:
        for name, polygon in self.zones.items():
            if len(polygon) < 3:
                raise ParameterInvalid(f"zones.{name}: expected three points or more, got {len(polygon)}")
        for name, line in self.lines.items():
            if len(line) != 2 or line[0] == line[1]:
                raise ParameterInvalid(f"lines.{name}: expected two different points, got {list(line)}")
        if not (0 <= self.settle_s <= 60 and 0 < self.lost_s <= 3600):
            raise ParameterInvalid(f"settle_s, lost_s: expected 0 to 60, 0 to 3600, got {self.settle_s}, {self.lost_s}")


@dataclass(slots=True)
class _Told:
    """A yes-or-no of a track: what was told, and since when the other answer holds."""

    value: bool | None = None
    other_since: int = -1

    def settles(self, value: bool, pts_ns: int, settle_ns: float) -> int | None:
        """When the change began, once it has held long enough; else None."""
        if value == self.value:
            self.other_since = -1
            return None
        if self.other_since < 0:
            self.other_since = pts_ns
        if pts_ns - self.other_since < settle_ns:
            return None
        began, self.value, self.other_since = self.other_since, value, -1
        return began


@dataclass(slots=True)
class _Seen:
    class_id: int
    last_ns: int
    here: _Told = field(default_factory=lambda: _Told(False))
    zones: dict[str, _Told] = field(default_factory=dict)
    lines: dict[str, _Told] = field(default_factory=dict)
    foot: dict[str, Point] = field(default_factory=dict)  # by line: where it stood when its side was last told


class TrackEvents:
    """The events of one timeline of one pipeline."""

    def __init__(self, rules: EventRules) -> None:
        self._rules = rules
        self._tracks: dict[int, _Seen] = {}

    def update(self, boxes: Detections, pts_ns: int) -> list[TrackEvent]:
        """Events that this frame settles, in the order of their tracks. pts_ns rises from call to call."""
        events: list[TrackEvent] = []
        ids = boxes.tracker_id if boxes.tracker_id is not None else np.full(len(boxes), -1)
        for track_id, class_id, box in zip(ids.tolist(), boxes.class_id.tolist(), boxes.xyxy.tolist(), strict=True):
            if track_id >= 0:
                seen = self._tracks.setdefault(track_id, _Seen(class_id, pts_ns))
                seen.last_ns = pts_ns
                foot = ((box[0] + box[2]) / 2, box[3])
                events += self._of(track_id, seen, foot, pts_ns)
        return events + self._left(pts_ns)

    def finish(self, pts_ns: int) -> list[TrackEvent]:
        """The timeline ends at `pts_ns`: every track that was told leaves."""
        events = [e for i, seen in self._tracks.items() for e in self._leave(i, seen, pts_ns)]
        self._tracks.clear()
        return events

    def _of(self, track_id: int, seen: _Seen, foot: Point, pts_ns: int) -> list[TrackEvent]:
        settle_ns = self._rules.settle_s * 1e9
        events = []

        def tell(kind: EventKind, began: int, place: str = "", direction: str = "") -> None:
            events.append(TrackEvent(kind, track_id, seen.class_id, began, pts_ns, place, direction))

        began = seen.here.settles(True, pts_ns, settle_ns)
        if began is not None:
            tell(EventKind.APPEAR, began)
        for name, polygon in self._rules.zones.items():
            state = seen.zones.setdefault(name, _Told(False))
            began = state.settles(_inside(foot, polygon), pts_ns, settle_ns)
            if began is not None:
                tell(EventKind.ZONE_ENTER if state.value else EventKind.ZONE_LEAVE, began, name)
        for name, (a, b) in self._rules.lines.items():
            side = _side(foot, a, b)
            state = seen.lines.setdefault(name, _Told(side > 0))
            if side != 0:
                began = state.settles(side > 0, pts_ns, settle_ns)
                if began is not None and _meet(seen.foot.get(name, foot), foot, a, b):
                    tell(EventKind.LINE_CROSS, began, name, "right" if side > 0 else "left")
            if state.other_since < 0:
                seen.foot[name] = foot
        return events

    def _left(self, pts_ns: int) -> list[TrackEvent]:
        gone = {i: seen for i, seen in self._tracks.items() if pts_ns - seen.last_ns > self._rules.lost_s * 1e9}
        for track_id in gone:
            del self._tracks[track_id]
        return [event for track_id, seen in gone.items() for event in self._leave(track_id, seen, pts_ns)]

    def _leave(self, track_id: int, seen: _Seen, pts_ns: int) -> list[TrackEvent]:
        """A track that leaves is in no zone any more; one that never appeared leaves nothing."""
        if not seen.here.value:
            return []
        zones = [name for name, state in seen.zones.items() if state.value]
        told = [(EventKind.ZONE_LEAVE, name) for name in zones] + [(EventKind.LEAVE, "")]
        return [TrackEvent(kind, track_id, seen.class_id, seen.last_ns, pts_ns, name) for kind, name in told]


def _inside(point: Point, polygon: Sequence[Point]) -> bool:
    """Even-odd rule."""
    x, y = point
    inside = False
    for (x1, y1), (x2, y2) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
        if (y1 > y) != (y2 > y) and x < (x2 - x1) * (y - y1) / (y2 - y1) + x1:
            inside = not inside
    return inside


def _side(point: Point, a: Point, b: Point) -> float:
    """Over 0: right of the way from a to b, on a picture whose y grows downwards."""
    return (b[0] - a[0]) * (point[1] - a[1]) - (b[1] - a[1]) * (point[0] - a[0])


def _meet(start: Point, end: Point, a: Point, b: Point) -> bool:
    """The step from start to end passes between a and b, not around them."""
    return _side(a, start, end) * _side(b, start, end) <= 0
