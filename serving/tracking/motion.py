"""Constant-velocity Kalman filters of many tracks at once, each coordinate on its own.

The trackers' filters never couple two coordinates (their noises are diagonal), so the 8 x 8 covariance of the papers is
four 2 x 2 blocks of a place and its speed. Kept as columns they cost a few array operations a frame, however many
tracks there are. Time is counted in periods of 1/30 s, for which the trackers' noises were chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from serving.types import FloatArray

Values = npt.NDArray[np.float64]
PERIOD_NS = 1_000_000_000 / 30


@dataclass(slots=True)
class Motion:
    """Columns [tracks, coordinates]: place, speed a period, and their variances and covariance."""

    place: Values
    speed: Values
    place_var: Values
    shared_var: Values
    speed_var: Values

    @classmethod
    def begin(cls, place: Values, place_var: Values, speed_var: Values) -> Motion:
        """Tracks seen once: no speed is known."""
        still = np.zeros_like(place)
        return cls(place, still, place_var, still.copy(), speed_var)

    def predict(self, periods: float, place_noise: Values | float, shared: float, speed_noise: Values | float) -> None:
        """All tracks `periods` later, by F P F' + Q."""
        self.place = self.place + periods * self.speed
        self.place_var = self.place_var + periods * (2 * self.shared_var + periods * self.speed_var) + place_noise
        self.shared_var = self.shared_var + periods * self.speed_var + shared
        self.speed_var = self.speed_var + speed_noise

    def correct(self, rows: npt.NDArray[np.int64], measured: Values, noise: Values | float) -> None:
        """Tracks `rows` with a measurement [len(rows), coordinates] each."""
        place_var, shared = self.place_var[rows], self.shared_var[rows]
        gain = place_var / (place_var + noise)
        speed_gain = shared / (place_var + noise)
        apart = measured - self.place[rows]
        self.place[rows] += gain * apart
        self.speed[rows] += speed_gain * apart
        self.place_var[rows] = place_var * (1 - gain)
        self.shared_var[rows] = shared * (1 - gain)
        self.speed_var[rows] -= speed_gain * shared

    def squared_distance(self, measured: Values, noise: Values) -> Values:
        """Squared Mahalanobis distance [tracks, measurements]."""
        apart = measured[None, :, :] - self.place[:, None, :]
        distance: Values = (apart**2 / (self.place_var + noise)[:, None, :]).sum(axis=2)
        return distance

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        """Only these, in this order."""
        for column in fields(self):
            setattr(self, column.name, getattr(self, column.name)[rows])

    def append(self, other: Motion) -> None:
        """The other's tracks behind these."""
        for column in fields(self):
            setattr(self, column.name, np.concatenate([getattr(self, column.name), getattr(other, column.name)]))


def no_motion(coordinates: int = 4) -> Motion:
    """Of no track."""
    return Motion(*(np.empty((0, coordinates)) for _ in range(5)))


def overlap(a: Values | FloatArray, b: Values | FloatArray) -> Values:
    """IoU [len(a), len(b)] of boxes xyxy; 0 where both have no area."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    width = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    height = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    area_a, area_b = ((x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b))
    iou: Values = shared / np.maximum(area_a[:, None] + area_b[None, :] - shared, 1e-9)
    return iou
