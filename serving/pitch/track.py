"""The map over a video: one filter for each timeline, told the PTS of every frame.

An alpha-beta filter on the homography: the map and how the picture turns, by real time, drawn towards each frame's
own map. A map that jumps further than a camera can turn waits until a second frame says the same. A frame without a
map of its own gets the last one carried on by the picture's motion, for up to `HOLD_NS`; then the map is unknown
until the markings are found again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from serving.pitch.model import FieldMap, Matrix, metres_of, normalised, project, to_pixels
from serving.pitch.motion import between
from serving.types import PixelArray

HOLD_NS = 1_000_000_000
ALPHA = 0.6  # of what a frame's own map says against where the camera was going
NOISE_PX = 3.0  # what moves further is the camera's: a map is never drawn off its own frame by more than 0.4 of this
FASTEST = 1.2  # picture widths a second: what moves more is a cut, or wrong
_STILL: Matrix = np.zeros((3, 3))


@dataclass(slots=True)
class MapFilter:
    """Call `update` for every analysed frame in order; a new epoch begins a new one."""

    _map: Matrix | None = None
    _turn: Matrix = field(default_factory=lambda: _STILL)  # a ns: map(t + dt) = map(t) (1 + dt turn)
    _pts_ns: int = 0
    _measured_ns: int = 0
    _waiting: Matrix | None = None
    _picture: PixelArray = field(default_factory=lambda: np.zeros((1, 1, 3), np.uint8))

    def ahead(self, pts_ns: int) -> Matrix | None:
        """Pixels -> metres as the frame at `pts_ns` should have it by the camera's motion; None: nothing known."""
        if self._map is None or pts_ns - self._measured_ns > HOLD_NS:
            return None
        return normalised(self._map @ (np.eye(3) + (pts_ns - self._pts_ns) * self._turn))

    def update(self, found: FieldMap, pts_ns: int, picture: PixelArray) -> tuple[FieldMap, int]:
        """The frame's map, and for how many ns it has been carried without markings (0: measured).

        picture: RGB uint8 [h, w, 3].
        """
        expected = self.ahead(pts_ns)
        if found.to_metres is not None and self._jumps(expected, found.to_metres, pts_ns, picture):
            self._waiting, found = found.to_metres, FieldMap(None, reason="jump")
        if found.to_metres is not None:
            now = self._drawn(expected, found.to_metres, pts_ns, picture)
            self._keep(now, pts_ns, picture)
            self._measured_ns, self._waiting = pts_ns, None
            return replace(found, to_metres=now), 0
        motion = between(picture, self._picture) if expected is not None else None
        if motion is None or self._map is None:
            self._map, self._turn, self._picture = None, _STILL, picture
            return found, 0
        self._keep(normalised(self._map @ motion[0]), pts_ns, picture)
        return FieldMap(self._map, inliers=motion[1], reason=found.reason), pts_ns - self._measured_ns

    def _jumps(self, expected: Matrix | None, told: Matrix, pts_ns: int, picture: PixelArray) -> bool:
        """Whether a map is too far from the expected one, and is said for the first time."""
        if expected is None:
            return False
        width = picture.shape[1]
        if moved(expected, told, picture) <= FASTEST * width * max(0.04, (pts_ns - self._pts_ns) / 1e9):
            return False
        return self._waiting is None or moved(self._waiting, told, picture) > 0.1 * width

    def _drawn(self, expected: Matrix | None, told: Matrix, pts_ns: int, picture: PixelArray) -> Matrix:
        """The expected map drawn towards the frame's own; the turning drawn along."""
        step = pts_ns - self._pts_ns
        pixels = 0.0 if expected is None else moved(expected, told, picture)
        if expected is None or step <= 0 or pixels > 0.1 * picture.shape[1]:
            self._turn = _STILL  # found anew
            return told
        alpha = 1 - (1 - ALPHA) * min(1.0, NOISE_PX / max(pixels, 1e-9))
        beta = alpha**2 / (2 - alpha)  # Benedict and Bordner 1962
        off = normalised(np.linalg.inv(expected) @ told) - np.eye(3)
        self._turn = self._turn + beta / step * off
        return normalised(expected @ (np.eye(3) + alpha * off))

    def _keep(self, matrix: Matrix, pts_ns: int, picture: PixelArray) -> None:
        self._map, self._pts_ns, self._picture = matrix, pts_ns, picture


def moved(first: Matrix, second: Matrix, picture: PixelArray) -> float:
    """How far the ground under four points of the picture's lower half moves from one map to the other: pixels,
    median."""
    height, width = picture.shape[:2]
    at = np.array([[0.1, 0.55], [0.9, 0.55], [0.9, 0.95], [0.1, 0.95]]) * [width, height]
    off = np.hypot(*(project(to_pixels(second), metres_of(first, at)) - at).T)
    return float(np.median(np.where(np.isfinite(off), off, 1e9)))
