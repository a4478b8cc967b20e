"""The markings of a football pitch in metres (IFAB Laws of the Game, law 1), and a map from pixels to them.

Axes: x along the length from the left goal line (0) to the right one, y along the width, from the far touchline (0)
to the near one as seen from the camera's side, so that the map drawn with y downwards looks as the picture does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[Any]  # float64 [n, 2], if nothing else is said
Matrix = npt.NDArray[Any]  # float64 [3, 3]

PENALTY_AREA, GOAL_AREA = (16.5, 40.32), (5.5, 18.32)  # depth and width
CIRCLE, SPOT = 9.15, 11.0
LINE_WIDTH = 0.12


@dataclass(frozen=True)
class Pitch:
    """length, width: metres between the lines' middles. International matches: 100 to 110 by 64 to 75; 105 by 68."""

    length: float = 105.0
    width: float = 68.0

    @cached_property
    def across(self) -> Points:
        """x of the lines that run across the pitch: goal lines, goal and penalty areas, halfway line. [7]"""
        half = np.array([0.0, GOAL_AREA[0], PENALTY_AREA[0]])
        return np.concatenate([half, [self.length / 2], self.length - half[::-1]])

    @cached_property
    def along(self) -> Points:
        """y of the lines that run along it: touchlines, sides of the areas. [6]"""
        half = np.array([PENALTY_AREA[1], GOAL_AREA[1]]) / 2
        return np.concatenate([[0.0], self.width / 2 - half, self.width / 2 + half[::-1], [self.width]])

    @cached_property
    def segments(self) -> Points:
        """Every straight marking, [n, 4] as x1, y1, x2, y2."""
        long, wide, middle = self.length, self.width, self.width / 2
        rows = [(0, 0, long, 0), (0, wide, long, wide), (0, 0, 0, wide), (long, 0, long, wide),
                (long / 2, 0, long / 2, wide)]  # fmt: skip
        for depth, across in (PENALTY_AREA, GOAL_AREA):
            for goal, sign in ((0.0, 1.0), (long, -1.0)):
                front, low, high = goal + sign * depth, middle - across / 2, middle + across / 2
                rows += [(goal, low, front, low), (goal, high, front, high), (front, low, front, high)]
        return np.array(rows, np.float64)

    @cached_property
    def arcs(self) -> tuple[tuple[float, float, float, float], ...]:
        """Centre circle and penalty arcs: x, y, first and last angle in radians, all of radius `CIRCLE`."""
        open_ = float(np.arccos((PENALTY_AREA[0] - SPOT) / CIRCLE))
        middle = self.width / 2
        return (
            (self.length / 2, middle, -np.pi, np.pi),
            (SPOT, middle, -open_, open_),
            (self.length - SPOT, middle, np.pi - open_, np.pi + open_),
        )

    @cached_property
    def samples(self) -> tuple[Points, Points, npt.NDArray[np.int64]]:
        """Points on the markings [n, 2] about a metre apart, their directions [n, 2], and which marking each is on [n].

        Markings 0..16 are `segments`, the ones after it `arcs`.
        """
        points, directions, groups = [], [], []
        for number, (x1, y1, x2, y2) in enumerate(self.segments):
            way = np.array([x2 - x1, y2 - y1])
            steps = max(6, round(float(np.hypot(*way))))
            at = (np.arange(steps) + 0.5) / steps
            points.append(np.array([x1, y1]) + at[:, None] * way)
            directions.append(np.tile(way / np.hypot(*way), (steps, 1)))
            groups.append(np.full(steps, number))
        for number, (x, y, first, last) in enumerate(self.arcs, len(self.segments)):
            steps = max(6, round((last - first) * CIRCLE))
            angle = first + (np.arange(steps) + 0.5) / steps * (last - first)
            points.append(np.stack([x + CIRCLE * np.cos(angle), y + CIRCLE * np.sin(angle)], axis=1))
            directions.append(np.stack([-np.sin(angle), np.cos(angle)], axis=1))
            groups.append(np.full(steps, number))
        return np.concatenate(points), np.concatenate(directions), np.concatenate(groups)

    @property
    def turned(self) -> Matrix:
        """Metres -> metres of the pitch turned by half a turn: it looks the same."""
        return np.array([[-1, 0, self.length], [0, -1, self.width], [0, 0, 1]], np.float64)


PITCH = Pitch()


@dataclass(frozen=True, slots=True)
class FieldMap:
    """What is known of the pitch in one picture.

    to_metres: float64 [3, 3], pixels of the picture -> metres, last element 1; None: unknown. error: reprojection
    error, RMS distance in pixels between the markings and the paint that they lie on. inliers: paint samples within 3
    pixels. coverage: part of the visible markings that has paint under it, 0..1. reason: why it is unknown, of
    `REASONS`.
    """

    to_metres: Matrix | None
    error: float = 0.0
    inliers: int = 0
    coverage: float = 0.0
    reason: str = ""

    @property
    def known(self) -> bool:
        """Whether there is a map."""
        return self.to_metres is not None


# no_grass: hardly any; few_lines: not enough markings; no_fit: no way to lay a pitch over them; ambiguous: several
# ways. REASONS = ("no_grass", "few_lines", "no_fit", "ambiguous")


def oriented(to_metres: Matrix) -> Matrix:
    """The same homography with the sign that gives w > 0 below the horizon (pixel rows count downwards)."""
    return np.asarray(to_metres * (np.sign(to_metres[2, 1]) or np.sign(to_metres[2, 2]) or 1.0))


def project(matrix: Matrix, points: Points) -> Points:
    """Points [n, 2] through a homography, [n, 2]; nan where w <= 0: behind the camera, or above the horizon."""
    x, y, w = matrix @ np.column_stack([points, np.ones(len(points))]).T
    w = np.where(w > 1e-9, w, np.nan)
    return np.stack([x / w, y / w], axis=1)


def metres_of(to_metres: Matrix, pixels: Points) -> Points:
    """Pixels [n, 2] -> metres [n, 2]; nan above the horizon."""
    return project(oriented(to_metres), pixels)


def to_pixels(to_metres: Matrix) -> Matrix:
    """Metres -> pixels, w > 0 for what the camera has in front of it."""
    return np.asarray(np.linalg.inv(oriented(to_metres)))


def normalised(matrix: Matrix) -> Matrix:
    """The same homography with last element 1 where that may be."""
    return np.asarray(matrix / (matrix[2, 2] if abs(matrix[2, 2]) > 1e-12 else np.abs(matrix).max()))
