"""ByteTrack (Zhang et al. 2022) over arrays: the algorithm of the `trackers` library 2.6, a tenth of its time.

The library keeps an 8 x 8 filter an object and walks over them; at 50 objects that costs 5 ms a frame. Here all tracks
are columns. Its ids equal the library's, box for box, which is the reference of the tests. Sure boxes are matched by
overlap first, then doubtful ones with the tracks that found none; classes are matched apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from serving.tracking.motion import Motion, overlap
from serving.tracking.table import Rows, Table, assign
from serving.types import Detections

_MEASUREMENT, _DRIFT = 0.1, 0.01  # the library's noises for corners in pixels
_NOMINAL = 0.12  # a step so near to one period (4 ms) counts as one


@dataclass(frozen=True, slots=True)
class TrackSettings:
    """activation: score from which a box starts a track. high: score of the first association stage (boxes below are
    matched in the second). iou: least overlap of a match. lost_s: how long a lost track is kept. confirm: matches in a
    row after which a track gets an id. OC-SORT knows no `activation`, and boxes below `high` have no track there.
    """

    activation: float = 0.5
    high: float = 0.5
    iou: float = 0.1
    lost_s: float = 1.0
    confirm: int = 2


class ByteTrack:
    """See `serving.ports.Tracker`."""

    def __init__(self, settings: TrackSettings | None = None) -> None:
        self._settings = settings or TrackSettings()
        self._tracks = Table()

    def update(self, detections: Detections, pts_ns: int) -> Detections:
        """The same boxes in the same order, with tracker_id: -1 where a box belongs to no confirmed track.

        pts_ns must rise from call to call (ValueError): late detections never rewind a tracker.
        """
        tracks, rules = self._tracks, self._settings
        tracks.motion.predict(*_step(tracks.step(pts_ns, "ByteTrack")))
        tracks.keep(pts_ns - tracks.seen_ns <= rules.lost_s * 1e9)
        sure = detections.confidence >= rules.high
        ids = np.full(len(detections), -1, np.int64)
        everyone = np.arange(len(tracks))
        free, new = self._match(everyone, np.flatnonzero(sure), detections, pts_ns, ids)
        self._match(free, np.flatnonzero(~sure), detections, pts_ns, ids)
        tracks.keep_alive(pts_ns, rules.lost_s)
        self._begin(new[detections.confidence[new] >= rules.activation], detections, pts_ns)
        return replace(detections, tracker_id=ids)

    def _match(
        self, rows: Rows, places: Rows, found: Detections, pts_ns: int, ids: np.ndarray[tuple[int], np.dtype[np.int64]]
    ) -> tuple[Rows, Rows]:
        """Match these tracks and boxes, into `ids`; the tracks and the boxes that found none."""
        tracks = self._tracks
        similarity = overlap(tracks.motion.place[rows], found.xyxy[places])
        similarity[tracks.class_id[rows][:, None] != found.class_id[places][None, :]] = 0
        a, b = assign(similarity, self._settings.iou)
        tracks.motion.correct(rows[a], found.xyxy[places[b]].astype(np.float64), _MEASUREMENT)
        tracks.seen(rows[a], pts_ns, self._settings.confirm)
        ids[places[b]] = tracks.track_id[rows[a]]
        return np.delete(rows, a), np.delete(places, b)

    def _begin(self, places: Rows, found: Detections, pts_ns: int) -> None:
        boxes = found.xyxy[places].astype(np.float64)
        one = np.ones_like(boxes)
        self._tracks.begin(found.class_id[places], pts_ns, Motion.begin(boxes, one, one.copy()))


def _step(periods: float) -> tuple[float, float, float, float]:
    """Periods and the noises of place, both and speed: of one frame as tuned, of others by white-noise acceleration."""
    if abs(periods - 1) <= _NOMINAL:
        return periods, _DRIFT, 0.0, _DRIFT
    squared = periods * periods
    return periods, _DRIFT * squared * squared / 4, _DRIFT * squared * periods / 2, _DRIFT * squared
