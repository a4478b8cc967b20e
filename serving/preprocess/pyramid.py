"""A picture in many sizes on one plane, and many parts of it in one size, by means over areas.

All of it is read from one table of sums (Crow 1984): the mean over an area costs four look-ups, whatever its size. An
area is that of torch's `interpolate(mode="area")`: pixels floor(i * from / to) to ceil((i + 1) * from / to).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

from serving.types import Array, FloatArray, ImageSize, IntArray, PixelArray

# A larger picture is shrunk to this side first: its sums would not fit into 31 bits (2560 * 2560 * 255 do).
LONGEST = 2560


class AreaMeans:
    """Means over areas of one picture, uint8 [h, w, 3] of at most LONGEST a side."""

    def __init__(self, pixels: PixelArray) -> None:
        height, width = pixels.shape[:2]
        if max(height, width) > LONGEST:
            raise ValueError(f"AreaMeans: expected sides of at most {LONGEST}, got {width}x{height}")
        self.size = ImageSize(width, height)
        self._sums = cv2.integral(pixels, sdepth=cv2.CV_32S)

    def resized(self, width: int, height: int) -> FloatArray:
        """The whole picture in another size: float32 [3, height, width], levels 0..255."""
        top, bottom = _areas(self.size.height, height)
        left, right = _areas(self.size.width, width)
        bands = self._sums[bottom] - self._sums[top]
        means = (bands[:, right] - bands[:, left]) / ((bottom - top)[:, None] * (right - left))[:, :, None]
        return np.ascontiguousarray(means.transpose(2, 0, 1), np.float32)

    def crops(self, edges: IntArray, side: int) -> FloatArray:
        """Parts of the picture in one size: float32 [n, 3, side, side]. edges [n, 4]: x1, y1, x2, y2, inside it."""
        (left, right), (top, bottom) = (
            [edges[:, first, None] + area for area in _areas(edges[:, first + 2, None] - edges[:, first, None], side)]
            for first in (0, 1)
        )
        sums = self._corner(bottom, right) - self._corner(top, right)
        sums = sums - self._corner(bottom, left) + self._corner(top, left)
        means = sums / ((bottom - top)[:, :, None] * (right - left)[:, None])[..., None]
        return np.ascontiguousarray(means.transpose(0, 3, 1, 2), np.float32)

    def _corner(self, rows: IntArray, columns: IntArray) -> Array:
        return np.asarray(self._sums[rows[:, :, None], columns[:, None]])


def _areas(length: int | IntArray, count: int) -> tuple[IntArray, IntArray]:
    """First pixels and ends of `count` areas along a length."""
    places = np.arange(count)
    return places * length // count, -(-(places + 1) * length // count)


@dataclass(frozen=True, slots=True)
class Level:
    """One size of the picture and its place on the plane. scale: its pixels a pixel of the picture."""

    scale: float
    width: int
    height: int
    x: int = 0
    y: int = 0

    def overlaps(self, other: Level) -> bool:
        """Whether two levels share a pixel of the plane."""
        return (
            self.x < other.x + other.width and other.x < self.x + self.width
            and self.y < other.y + other.height and other.y < self.y + self.height
        )  # fmt: skip


@lru_cache(maxsize=64)
def pyramid(size: ImageSize, plane: ImageSize, window: int, smallest: float, factor: float) -> tuple[Level, ...]:
    """Sizes of a picture in which objects of `smallest` pixels or more fill a window, each on a place of its own.

    Each level is `factor` times the one before; the last is the smallest that holds a window. Where they do not all fit
    onto the plane, all are smaller, and so the smallest object is larger. No level: the picture is too small.
    """
    scale = min(window / smallest, plane.width / size.width, plane.height / size.height)
    while (placed := _placed(_levels(size, window, scale, factor), plane)) is None:
        scale *= 0.98
    return placed


def _levels(size: ImageSize, window: int, scale: float, factor: float) -> list[Level]:
    levels, least = [], min(size.width, size.height) * scale
    while least >= window:
        levels.append(Level(scale, int(size.width * scale + 1), int(size.height * scale + 1)))
        scale, least = scale * factor, least * factor
    return levels


def _placed(levels: Sequence[Level], plane: ImageSize) -> tuple[Level, ...] | None:
    """Each level at the first free corner, from the top; None where one has no place. Corners are at even pixels: the
    networks that look at the plane go over it in steps of two."""
    corners, placed = [(0, 0)], list[Level]()
    for level in levels:
        for y, x in sorted(corners):
            here = replace(level, x=x, y=y)
            inside = x + level.width <= plane.width and y + level.height <= plane.height
            if inside and not any(here.overlaps(other) for other in placed):
                break
        else:
            return None
        placed.append(here)
        corners += [(here.y + here.height + here.height % 2, here.x), (here.y, here.x + here.width + here.width % 2)]
    return tuple(placed)


def on_plane(means: AreaMeans, levels: Sequence[Level], plane: ImageSize) -> FloatArray:
    """The levels at their places, zeros elsewhere: float32 [3, height, width], levels 0..255."""
    canvas = np.zeros((3, plane.height, plane.width), np.float32)
    for level in levels:
        there = (slice(None), slice(level.y, level.y + level.height), slice(level.x, level.x + level.width))
        canvas[there] = means.resized(level.width, level.height)
    return canvas
