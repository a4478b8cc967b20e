"""What one pipeline has seen of each track in one epoch, and what that allows to draw on a frame.

Measured boxes are drawn on their own frame only. Where a track has none, a box is filled in: interpolated if the next
measurement is known, else extrapolated, never further than H from the last measurement and never over a gap of more
than H. A track appears after two measured frames or with a score above the high threshold, and does not blink over a
hole shorter than H.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from serving.align.fill import FillPlan, Way, box_at
from serving.frames import Origin
from serving.types import Detections, PixelArray

CONFIRM_AFTER = 2
FEW = 5  # tracks up to which plain arithmetic beats arrays


class Later(NamedTuple):
    """A measured frame after the one to draw: its PTS and its boxes by track."""

    pts_ns: int
    boxes: dict[int, list[float]]


Look = Callable[[], Iterator[Later]]  # the measured frames ahead that a fill may use, nearest first


@dataclass(slots=True)
class _Track:
    pts_ns: int
    box: list[float]
    confidence: float
    class_id: int
    hits: int = 1
    shown: bool = False
    before_pts_ns: int = -1
    before_box: list[float] | None = None

    def take(self, pts_ns: int, box: list[float], confidence: float, class_id: int) -> None:
        """Another measurement, as a rule the latest."""
        if pts_ns > self.pts_ns:
            self.before_pts_ns, self.before_box = self.pts_ns, self.box
            self.pts_ns, self.box, self.confidence, self.class_id = pts_ns, box, confidence, class_id
            self.hits += 1
        elif self.before_pts_ns < pts_ns < self.pts_ns:
            self.before_pts_ns, self.before_box = pts_ns, box
            self.hits += 1


@dataclass(frozen=True, slots=True)
class TrackRules:
    """high_threshold: score from which a track appears at once. fill False: measured boxes only."""

    high_threshold: float = 0.6
    fill: bool = True


def boxes_by_track(detections: Detections) -> dict[int, list[float]]:
    """The boxes of confirmed tracks; {} where nothing was tracked."""
    if detections.tracker_id is None:
        return {}
    pairs = zip(detections.tracker_id.tolist(), detections.xyxy.tolist(), strict=True)
    return {track: box for track, box in pairs if track >= 0}


class Tracks:
    """Track memory of one pipeline in one epoch. Feed it in PTS order; a late frame may follow."""

    __slots__ = ("_oldest_ns", "_plan", "_rules", "_tracks")

    def __init__(self, rules: TrackRules) -> None:
        self._rules = rules
        self._tracks: dict[int, _Track] = {}
        self._oldest_ns = 0
        self._plan: _Plan | None = None

    def measured(self, pts_ns: int, h_ns: int, found: Detections, later: Look) -> tuple[Detections, PixelArray]:
        """Boxes to draw on a frame that has a result, with their origins."""
        if found.tracker_id is None and len(found):
            return found, np.zeros(len(found), np.uint8)
        self._expire(pts_ns, h_ns)
        visible = self._learn(pts_ns, found)
        boxes = found if visible is None else _select(found, visible)
        holes = self._holes(pts_ns) if self._oldest_ns < pts_ns else []
        if not holes:
            return boxes, np.zeros(len(boxes), np.uint8)
        filled, origin = self._fill(pts_ns, h_ns, holes, later)
        return _join(boxes, filled), np.concatenate([np.zeros(len(boxes), np.uint8), origin])

    def unmeasured(self, pts_ns: int, h_ns: int, later: Look) -> tuple[Detections, PixelArray]:
        """Boxes to draw on a frame without a result, with their origins."""
        self._expire(pts_ns, h_ns)
        plan = self._plan
        if plan is not None and plan.h_ns == h_ns:
            return plan.fill.at(pts_ns), plan.fill.origin
        holes = self._holes(pts_ns)
        return self._fill(pts_ns, h_ns, holes, later) if holes else _NOTHING

    def learn_late(self, pts_ns: int, found: Detections) -> None:
        """A result of a frame that was shown without it: it is drawn nowhere, but tells where its tracks were."""
        if found.tracker_id is not None:
            self._learn(pts_ns, found)

    def look_again(self, pts_ns: int) -> None:
        """A measurement ahead is new or has changed: what was planned without it may be wrong."""
        plan = self._plan
        if plan is not None and (not plan.complete or pts_ns <= plan.until_ns):
            self._plan = None

    # -- inside -----------------------------------------------------------------------------------------------------

    def _expire(self, pts_ns: int, h_ns: int) -> None:
        oldest = pts_ns - h_ns
        if self._oldest_ns >= oldest:
            return
        for track in [track for track, state in self._tracks.items() if state.pts_ns < oldest]:
            del self._tracks[track]
        self._changed()

    def _changed(self) -> None:
        self._plan = None
        self._oldest_ns = min((state.pts_ns for state in self._tracks.values()), default=0)

    def _holes(self, pts_ns: int) -> list[tuple[int, _Track]]:
        if not self._rules.fill:
            return []
        return [(track, s) for track, s in self._tracks.items() if s.shown and s.pts_ns < pts_ns]

    def _learn(self, pts_ns: int, found: Detections) -> list[bool] | None:
        """Take in the measured boxes of one frame; which of them may be drawn, None for all."""
        if found.tracker_id is None:
            return None
        high, tracks = self._rules.high_threshold, self._tracks
        visible, hidden = [], False
        columns = found.tracker_id.tolist(), found.xyxy.tolist(), found.confidence.tolist(), found.class_id.tolist()
        for track, box, score, class_id in zip(*columns, strict=True):
            if track < 0:
                shown = score > high
            else:
                state = tracks.get(track)
                if state is None:
                    state = tracks[track] = _Track(pts_ns, box, score, class_id)
                else:
                    state.take(pts_ns, box, score, class_id)
                if not state.shown:
                    state.shown = state.hits >= CONFIRM_AFTER or score > high
                shown = state.shown
            visible.append(shown)
            hidden = hidden or not shown
        self._plan = None
        ids = columns[0]
        if len(set(ids)) == len(tracks) and min(ids, default=0) >= 0:
            self._oldest_ns = pts_ns  # every track was seen here; if late, a bound from below does too
        else:
            self._changed()
        return visible if hidden else None

    def _fill(
        self, pts_ns: int, h_ns: int, holes: list[tuple[int, _Track]], later: Look
    ) -> tuple[Detections, PixelArray]:
        if len(holes) <= FEW:
            return _fill_few(pts_ns, _ways(h_ns, holes, later)[0])
        ways, until_ns, complete = _ways(h_ns, holes, later)
        self._plan = _Plan(h_ns, until_ns, complete, FillPlan(ways))
        return self._plan.fill.at(pts_ns), self._plan.fill.origin


class _Plan(NamedTuple):
    """A fill plan and how far ahead it looked. `complete`: measurements after `until_ns` would change nothing."""

    h_ns: int
    until_ns: int
    complete: bool
    fill: FillPlan


def _ways(h_ns: int, holes: list[tuple[int, _Track]], later: Look) -> tuple[list[Way], int, bool]:
    """(where each track goes, how far ahead was looked, whether every track was found there)."""
    wanted = dict(holes)
    ends: dict[int, Later] = {}
    until_ns = 0
    for frame in later():
        until_ns = frame.pts_ns
        for track in wanted.keys() & frame.boxes.keys():
            ends[track] = frame
            del wanted[track]
        if not wanted:
            break
    return [_way(track, state, ends.get(track), h_ns) for track, state in holes], until_ns, not wanted


def _fill_few(pts_ns: int, ways: list[Way]) -> tuple[Detections, PixelArray]:
    boxes = Detections(
        np.array([box_at(way, pts_ns) for way in ways], np.float32),
        np.array([way.confidence for way in ways], np.float32),
        np.array([way.class_id for way in ways], np.int64),
        np.array([way.track for way in ways], np.int64),
    )
    kinds = [Origin.INTERPOLATED.value if way.interpolated else Origin.EXTRAPOLATED.value for way in ways]
    return boxes, np.array(kinds, np.uint8)


def _way(track: int, state: _Track, end: Later | None, h_ns: int) -> Way:
    """Towards the next measurement if it lies within H of the last one, else on with the velocity of the last two."""
    box, since = state.box, state.pts_ns
    if end is not None and end.pts_ns - since <= h_ns:
        towards, span, interpolated = end.boxes[track], end.pts_ns - since, True
    elif state.before_box is not None and since - state.before_pts_ns <= h_ns:
        towards, span, interpolated = state.before_box, since - state.before_pts_ns, False
    else:
        towards, span, interpolated = box, 1, False
    return Way(box, towards, since, span, state.confidence, state.class_id, track, interpolated)


def _select(found: Detections, keep: list[bool]) -> Detections:
    mask = np.array(keep, bool)
    ids = None if found.tracker_id is None else found.tracker_id[mask]
    return Detections(found.xyxy[mask], found.confidence[mask], found.class_id[mask], ids)


def _join(first: Detections, second: Detections) -> Detections:
    assert second.tracker_id is not None
    ids = first.tracker_id if first.tracker_id is not None else np.zeros(0, np.int64)
    return Detections(
        np.concatenate([first.xyxy, second.xyxy]),
        np.concatenate([first.confidence, second.confidence]),
        np.concatenate([first.class_id, second.class_id]),
        np.concatenate([ids, second.tracker_id]),
    )


_NOTHING = (Detections.empty(), np.zeros(0, np.uint8))
