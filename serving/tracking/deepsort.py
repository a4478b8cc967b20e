"""DeepSORT (Wojke, Bewley and Paulus 2017): motion by a Kalman filter, identity by appearance, a matching cascade.

Boxes that carry an appearance (`Detections.appearance`, a re-identification embedding of each box) are matched by it
first, tracks seen last first; what is left is matched by overlap. Without appearance overlap decides alone. What a
track looks like is the running mean of its boxes (StrongSORT, Du et al. 2023) in place of the paper's last hundred:
one row a track, and a twentieth of the time. Elapsed time is the PTS's: a track is kept for `lost_s` at any frame rate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from serving.tracking.motion import Motion, Values, overlap
from serving.tracking.table import Rows, Table, assign
from serving.types import Detections, FloatArray

_PLACE, _SPEED = 1 / 20, 1 / 160  # the paper's deviations, as shares of the box's height
_GATE = 9.4877  # 95 % quantile of chi-square with 4 degrees of freedom


@dataclass(frozen=True, slots=True)
class DeepSortSettings:
    """confidence: boxes below it neither start nor continue a track. cosine: largest cosine distance of a match by
    appearance. iou: least overlap of a match without it. confirm: matches in a row after which a track gets its id.
    memory: weight of what a track looked like before against its newest box.
    """

    confidence: float = 0.5
    cosine: float = 0.2
    iou: float = 0.3
    lost_s: float = 1.0
    confirm: int = 3
    memory: float = 0.9


class DeepSort:
    """See `serving.ports.Tracker`. `looks_from`: the score from which a box's appearance is used."""

    def __init__(self, settings: DeepSortSettings | None = None) -> None:
        self._settings = settings or DeepSortSettings()
        self.looks_from = self._settings.confidence
        self._tracks = Table()

    def update(self, detections: Detections, pts_ns: int) -> Detections:
        """The same boxes in the same order with tracker_id (-1: no confirmed track). pts_ns must rise (ValueError)."""
        tracks, rules = self._tracks, self._settings
        periods = tracks.step(pts_ns, "DeepSort")
        place, speed = _deviations(tracks.motion.place[:, 3])
        tracks.motion.predict(periods, place**2 * periods, 0.0, speed**2 * periods)
        places = np.flatnonzero(detections.confidence >= rules.confidence)
        measured = _measured(detections.xyxy[places])
        looks = _unit(detections.appearance[places]) if detections.appearance is not None else None
        rows, columns = self._match(detections.xyxy[places], detections.class_id[places], measured, looks)
        self._take(rows, columns, measured, looks, pts_ns)
        ids = np.full(len(detections), -1, np.int64)
        ids[places[columns]] = tracks.track_id[rows]
        tracks.keep_alive(pts_ns, rules.lost_s)
        new = np.delete(np.arange(len(places)), columns)
        place, speed = _deviations(measured[new, 3], 2, 10)
        motion = Motion.begin(measured[new], place**2, speed**2)
        tracks.begin(detections.class_id[places[new]], pts_ns, motion, None if looks is None else looks[new])
        return replace(detections, tracker_id=ids)

    def _match(
        self, xyxy: FloatArray, classes: npt.NDArray[np.int64], measured: Values, looks: FloatArray | None
    ) -> tuple[Rows, Rows]:
        """Rows and columns of the matches: by appearance, tracks seen last first; then by overlap."""
        tracks, rules = self._tracks, self._settings
        other_class = tracks.class_id[:, None] != classes[None, :]
        free, pairs = np.arange(len(xyxy)), []
        cascaded = np.zeros(len(tracks), bool)
        if looks is not None and tracks.look.shape[1] == looks.shape[1]:
            alike: FloatArray = (tracks.look @ looks.T).astype(np.float32)
            far = tracks.motion.squared_distance(measured, _measurement_noise(tracks.motion.place[:, 3])) > _GATE
            alike[far | other_class] = -1.0
            for seen_ns in np.unique(tracks.seen_ns[tracks.track_id >= 0])[::-1]:
                rows = np.flatnonzero((tracks.track_id >= 0) & (tracks.seen_ns == seen_ns))
                a, b = assign(alike[rows[:, None], free[None, :]], 1 - rules.cosine)
                pairs.append((rows[a], free[b]))
                cascaded[rows[a]], free = True, np.delete(free, b)
        # As in the paper: overlap is for tracks that were seen in the last frame; older ones come back by appearance.
        newest = tracks.seen_ns.max(initial=-1)
        young = (tracks.track_id < 0) | (tracks.seen_ns == newest) | (looks is None)
        rows = np.flatnonzero(young & ~cascaded)
        shared = overlap(_boxes(tracks.motion.place[rows]), xyxy[free])
        shared[other_class[rows[:, None], free[None, :]]] = 0
        a, b = assign(shared, rules.iou)
        pairs.append((rows[a], free[b]))
        return np.concatenate([row for row, _ in pairs]), np.concatenate([column for _, column in pairs])

    def _take(self, rows: Rows, columns: Rows, measured: Values, looks: FloatArray | None, pts_ns: int) -> None:
        tracks = self._tracks
        noise = _measurement_noise(tracks.motion.place[rows, 3])
        tracks.motion.correct(rows, measured[columns], noise)
        tracks.seen(rows, pts_ns, self._settings.confirm)
        if looks is None or not len(rows):
            return
        if tracks.look.shape[1] != looks.shape[1]:
            tracks.look = np.zeros((len(tracks), looks.shape[1]), np.float32)
        before = tracks.look[rows]
        memory = np.where(before.any(axis=1), self._settings.memory, 0).astype(np.float32)[:, None]
        tracks.look[rows] = _unit(memory * before + (1 - memory) * looks[columns])


def _measured(xyxy: FloatArray) -> Values:
    """Boxes [n, 4] -> [n, 4] of centre x, centre y, aspect ratio, height."""
    boxes = np.asarray(xyxy, np.float64)
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-3)
    return np.concatenate([boxes[:, :2] + size / 2, size[:, :1] / size[:, 1:], size[:, 1:]], axis=1)


def _boxes(place: Values) -> Values:
    """[n, 4] of centre, aspect ratio, height -> boxes xyxy."""
    size = np.stack([place[:, 2] * place[:, 3], place[:, 3]], axis=1)
    return np.concatenate([place[:, :2] - size / 2, place[:, :2] + size / 2], axis=1)


def _deviations(height: Values, place: float = 1, speed: float = 1) -> tuple[Values, Values]:
    """[n, 4] of place and speed; those of the aspect ratio do not grow with the box."""
    h, one = np.abs(height), np.ones_like(height)
    p, v = place * _PLACE * h, speed * _SPEED * h
    return np.stack([p, p, 1e-2 * one, p], axis=1), np.stack([v, v, 1e-5 * one, v], axis=1)


def _measurement_noise(height: Values) -> Values:
    p = _PLACE * np.abs(height)
    noise: Values = np.stack([p, p, np.full_like(p, 1e-1), p], axis=1) ** 2
    return noise


def _unit(vectors: FloatArray | Values) -> FloatArray:
    """Rows of length 1; a row of zeros stays."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    unit: FloatArray = (vectors / np.maximum(lengths, 1e-12)[:, None]).astype(np.float32)
    return unit
