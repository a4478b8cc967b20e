"""OC-SORT (Cao et al. 2023) through the `trackers` library, told the real time between frames.

The library's own pace is a nominal frame rate; we hand it each frame's PTS in seconds, so a dropped frame or a variable
rate changes neither the motion model nor how long a lost track is kept. One tracker serves one timeline of one
pipeline; classes are tracked apart, ids are unique over all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import supervision as sv
from trackers import ByteTrackTracker, OCSORTTracker

from serving.tracking.bytetrack import TrackSettings
from serving.types import Detections, IntArray

NS_PER_S = 1_000_000_000
_PER_SECOND = 30.0  # the library counts its buffer in frames of 1/30 s, whatever the time between calls

Library = ByteTrackTracker | OCSORTTracker


class LibraryTracker:
    """See `serving.ports.Tracker`. new: a tracker of the library for one class."""

    def __init__(self, new: Callable[[], Library]) -> None:
        self._new = new
        self._by_class: dict[int, Library] = {}
        self._ids: dict[tuple[int, int], int] = {}
        self._last_ns = -1

    def update(self, detections: Detections, pts_ns: int) -> Detections:
        """The same boxes in the same order, with tracker_id: -1 where a box belongs to no confirmed track.

        pts_ns must rise from call to call (ValueError): late detections never rewind a tracker.
        """
        if pts_ns <= self._last_ns:
            raise ValueError(f"Tracker.update: expected pts_ns over {self._last_ns}, got {pts_ns}")
        self._last_ns = pts_ns
        ids = np.full(len(detections), -1, np.int64)
        for class_id in sorted({*self._by_class, *detections.class_id.tolist()}):
            places = np.flatnonzero(detections.class_id == class_id)
            ids[places] = self._update_class(class_id, detections, places, pts_ns)
        return replace(detections, tracker_id=ids)

    def _update_class(self, class_id: int, found: Detections, places: IntArray, pts_ns: int) -> IntArray:
        tracker = self._by_class.get(class_id)
        if tracker is None:
            tracker = self._by_class[class_id] = self._new()
        given = sv.Detections(
            xyxy=found.xyxy[places].astype(np.float32),
            confidence=found.confidence[places],
            class_id=found.class_id[places].astype(int),
            data={"place": np.arange(len(places))},
        )
        tracked = tracker.update(given, timestamp=pts_ns / NS_PER_S)
        ids = np.full(len(places), -1, np.int64)
        if len(tracked) and tracked.tracker_id is not None:
            for place, track in zip(tracked.data["place"], tracked.tracker_id, strict=True):
                ids[int(place)] = self._id(class_id, int(track))
        return ids

    def _id(self, class_id: int, track: int) -> int:
        if track < 0:
            return -1
        return self._ids.setdefault((class_id, track), len(self._ids) + 1)


class OcSort(LibraryTracker):
    """Overlap and direction of motion, with the motion of a lost track made good when it is seen again."""

    def __init__(self, settings: TrackSettings | None = None) -> None:
        s = settings or TrackSettings(iou=0.3)
        super().__init__(
            lambda: OCSORTTracker(
                lost_track_buffer=max(1, round(s.lost_s * _PER_SECOND)),
                frame_rate=_PER_SECOND,
                high_conf_det_threshold=s.high,
                minimum_iou_threshold=s.iou,
                minimum_consecutive_frames=s.confirm,
            )
        )


def library_bytetrack(settings: TrackSettings | None = None) -> LibraryTracker:
    """The library's own ByteTrack with the same settings: what `serving.tracking.bytetrack` is held against."""
    s = settings or TrackSettings()
    return LibraryTracker(
        lambda: ByteTrackTracker(
            lost_track_buffer=max(1, round(s.lost_s * _PER_SECOND)),
            frame_rate=_PER_SECOND,
            track_activation_threshold=s.activation,
            high_conf_det_threshold=s.high,
            minimum_iou_threshold=s.iou,
            minimum_consecutive_frames=s.confirm,
        )
    )
