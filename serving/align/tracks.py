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

from serving.align.fill import FillPlan, Way
from serving.types import Detections, PixelArray

CONFIRM_AFTER = 2


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

    __slots__ = ("_plan", "_rules", "_tracks")

    def __init__(self, rules: TrackRules) -> None:
        self._rules = rules
        self._tracks: dict[int, _Track] = {}
        self._plan: _Plan | None = None

    def measured(self, pts_ns: int, h_ns: int, found: Detections, later: Look) -> tuple[Detections, PixelArray]:
        """Boxes to draw on a frame that has a result, with their origins."""
        if found.tracker_id is None and len(found):
            return found, np.zeros(len(found), np.uint8)
        self._expire(pts_ns, h_ns)
        visible = self._learn(pts_ns, found)
        boxes = found if all(visible) else _select(found, visible)
        holes = self._holes(pts_ns)
        if not holes:
            return boxes, np.zeros(len(boxes), np.uint8)
        filled, origin = self._fill(pts_ns, h_ns, holes, later)
        return _join(boxes, filled), np.concatenate([np.zeros(len(boxes), np.uint8), origin])

    def unmeasured(self, pts_ns: int, h_ns: int, later: Look) -> tuple[Detections, PixelArray]:
        """Boxes to draw on a frame without a result, with their origins."""
        self._expire(pts_ns, h_ns)
        holes = self._holes(pts_ns)
        return self._fill(pts_ns, h_ns, holes, later) if holes else _NOTHING

    def learn_late(self, pts_ns: int, found: Detections) -> None:
        """A result of a frame that was shown without it: it is drawn nowhere, but tells where its tracks were."""
        if found.tracker_id is not None:
            self._learn(pts_ns, found)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _expire(self, pts_ns: int, h_ns: int) -> None:
        oldest = pts_ns - h_ns
        gone = [track for track, state in self._tracks.items() if state.pts_ns < oldest]
        for track in gone:
            del self._tracks[track]
        if gone:
            self._plan = None

    def _holes(self, pts_ns: int) -> list[tuple[int, _Track]]:
        if not self._rules.fill:
            return []
        return [(track, s) for track, s in self._tracks.items() if s.shown and s.pts_ns < pts_ns]

    def _learn(self, pts_ns: int, found: Detections) -> list[bool]:
        """Take in the measured boxes of one frame; which of them may be drawn."""
        if found.tracker_id is None:
            return []
        self._plan = None
        high, tracks = self._rules.high_threshold, self._tracks
        scores, classes = found.confidence.tolist(), found.class_id.tolist()
        visible = []
        for i, (track, box) in enumerate(zip(found.tracker_id.tolist(), found.xyxy.tolist(), strict=True)):
            score = scores[i]
            if track < 0:
                visible.append(score > high)
                continue
            state = tracks.get(track)
            if state is None:
                state = tracks[track] = _Track(pts_ns, box, score, classes[i])
            elif pts_ns > state.pts_ns:
                state.before_pts_ns, state.before_box = state.pts_ns, state.box
                state.pts_ns, state.box, state.confidence, state.class_id = pts_ns, box, score, classes[i]
                state.hits += 1
            elif state.before_pts_ns < pts_ns < state.pts_ns:
                state.before_pts_ns, state.before_box = pts_ns, box
                state.hits += 1
            state.shown = state.shown or state.hits >= CONFIRM_AFTER or score > high
            visible.append(state.shown)
        return visible

    def _fill(
        self, pts_ns: int, h_ns: int, holes: list[tuple[int, _Track]], later: Look
    ) -> tuple[Detections, PixelArray]:
        plan = self._plan
        if plan is None or plan.h_ns != h_ns or plan.holes != len(holes) or not plan.still_sees(later()):
            plan = self._plan = _make_plan(h_ns, holes, later)
        return plan.fill.at(pts_ns), plan.fill.origin


@dataclass(frozen=True, slots=True)
class _Plan:
    """A fill plan and what it was made from. `complete`: measurements beyond `used` would change nothing."""

    h_ns: int
    holes: int
    used: list[Later]
    complete: bool
    fill: FillPlan

    def still_sees(self, ahead: Iterator[Later]) -> bool:
        """The same measurements lie ahead, up to the one that answered the last question."""
        return self.complete and all(next(ahead, None) is known for known in self.used)


def _make_plan(h_ns: int, holes: list[tuple[int, _Track]], later: Look) -> _Plan:
    wanted = dict(holes)
    ends: dict[int, Later] = {}
    used: list[Later] = []
    for frame in later():
        used.append(frame)
        for track in [track for track in wanted if track in frame.boxes]:
            ends[track] = frame
            del wanted[track]
        if not wanted:
            break
    ways = [_way(track, state, ends.get(track), h_ns) for track, state in holes]
    return _Plan(h_ns, len(holes), used, not wanted, FillPlan.of(ways))


def _way(track: int, state: _Track, end: Later | None, h_ns: int) -> Way:
    """Towards the next measurement if it lies within H of the last one, else on with the velocity of the last two."""
    box, since = state.box, state.pts_ns
    if end is not None and end.pts_ns - since <= h_ns:
        towards, span, interpolated = end.boxes[track], end.pts_ns - since, True
    elif state.before_box is not None and since - state.before_pts_ns <= h_ns:
        towards, span, interpolated = state.before_box, since - state.before_pts_ns, False
    else:
        towards, span, interpolated = box, 1, False
    return Way(track, state.confidence, state.class_id, box, since, towards, span, interpolated)


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
