"""What a picture shows of a pitch: grass, paint on it, and the straight lines in the paint.

Paint is what is whiter than the grass on both sides of it, a few pixels wide (line pixels of Farin, Krabbe, de With,
Effelsberg: Robust Camera Calibration for Sport Videos Using Court Models, 2004). Lines come from a probabilistic Hough
transform (Matas, Galambos, Kittler 2000) and are laid through their paint by least squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from serving.pitch.model import Points
from serving.types import PixelArray

WIDEST = 1280  # wider pictures are worked on at this width
LEAST_GRASS = 0.12
MOST_LINES = 12
Grey = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Seen:
    """scale: working pixels for one of the picture. paint: float32 [h, w], grey levels above the grass beside it, 0 off
    the field. mask: uint8 [h, w], 255 on paint. off: float32 [h, w], distance to the next paint in pixels. noise: what
    paint has to rise above."""

    scale: float
    grass: float
    paint: Grey
    mask: PixelArray
    off: Grey
    noise: float


@dataclass(frozen=True, slots=True)
class Line:
    """`normal . p = offset` for pixels p; ends: of the paint on it, [2, 2]; support: pixels of paint along it."""

    normal: Points
    offset: float
    ends: Points
    support: float

    @property
    def homogeneous(self) -> Points:
        """[3]: line . (x, y, 1) = 0."""
        return np.array([*self.normal, -self.offset])


def look(rgb: PixelArray) -> Seen:
    """rgb: uint8 [h, w, 3]."""
    scale = min(1.0, WIDEST / rgb.shape[1])
    small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else rgb
    green = _green(np.asarray(small, np.uint8))
    field, share = _field(green)
    white = cv2.GaussianBlur(small.min(axis=2), (0, 0), 0.8)
    size = 2 * max(3, round(small.shape[1] / 160)) + 1
    bare = cv2.morphologyEx(white, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
    paint = (white.astype(np.float32) - bare) * (field > 0)
    # the opening lies under the noise of bare grass, everywhere by about as much
    bottom, most = np.percentile(paint[field > 0], (50, 75)) if field.any() else (0.0, 0.0)
    paint = np.maximum(paint - np.float32(bottom), 0)
    noise = float(max(4.0, 4.5 * (most - bottom)))
    paint = paint * _between_grass(green, size)
    mask = np.where(paint > noise, 255, 0).astype(np.uint8)
    mask = _without_specks(mask, small.shape[1] // 90)
    off = cv2.distanceTransform(255 - mask, cv2.DIST_L2, 3) if mask.any() else np.full(mask.shape, 1e3, np.float32)
    return Seen(scale, share, paint.astype(np.float32), mask, off.astype(np.float32), noise)


def _green(rgb: PixelArray) -> PixelArray:
    """1 where a pixel has the colour of grass."""
    hue, saturation, value = cv2.split(cv2.cvtColor(cv2.GaussianBlur(rgb, (0, 0), 1.0), cv2.COLOR_RGB2HSV))
    return ((hue > 28) & (hue < 95) & (saturation > 45) & (value > 30)).astype(np.uint8)


def _between_grass(green: PixelArray, size: int) -> PixelArray:
    """1 where there is grass on both sides, above and below or left and right: not at the edge of the field."""
    near = np.asarray(cv2.erode(green, np.ones((3, 3), np.uint8)), np.uint8)
    step = size // 2 + 2

    def shifted(rows: int, columns: int) -> PixelArray:
        # the nearer half of the way counts too: another line may run close by
        far = np.roll(near, (rows, columns), axis=(0, 1))
        return np.asarray(far | np.roll(near, (rows * 2 // 3, columns * 2 // 3), axis=(0, 1)))

    both = shifted(step, 0) & shifted(-step, 0) | shifted(0, step) & shifted(0, -step)
    both[:step], both[-step:], both[:, :step], both[:, -step:] = 1, 1, 1, 1
    return both


def _field(green: PixelArray) -> tuple[PixelArray, float]:
    """Mask of the largest green area with what stands on it, and the part of the picture that it is."""
    width = green.shape[1]
    size = max(3, width // 120) | 1
    bare = cv2.morphologyEx(green, cv2.MORPH_OPEN, np.ones((size, size), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(bare)
    if count < 2:
        return np.zeros(green.shape, np.uint8), 0.0
    best = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    size = max(9, width // 24) | 1
    closed = cv2.morphologyEx((labels == best).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((size, size), np.uint8))
    return np.asarray(closed, np.uint8), float(stats[best, cv2.CC_STAT_AREA]) / green.size


def _without_specks(mask: PixelArray, least: int) -> PixelArray:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    long = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    thin = stats[:, cv2.CC_STAT_AREA] < 0.55 * stats[:, cv2.CC_STAT_WIDTH] * stats[:, cv2.CC_STAT_HEIGHT]
    flat = np.minimum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) <= 4
    keep = (long >= least) & (thin | flat)
    keep[0] = False
    return np.where(keep[labels], 255, 0).astype(np.uint8)


def straight_lines(seen: Seen) -> list[Line]:
    """The longest straight lines in the paint, longest first, each once."""
    width = seen.mask.shape[1]
    found = cv2.HoughLinesP(seen.mask, 1, np.pi / 720, max(20, width // 24), None, width // 18, max(4, width // 60))
    if found is None:
        return []
    segments = found.reshape(-1, 4).astype(np.float64)
    length = np.hypot(segments[:, 2] - segments[:, 0], segments[:, 3] - segments[:, 1])
    rows, columns = np.nonzero(seen.mask)
    paint = np.column_stack([columns, rows]).astype(np.float64)
    weight = seen.paint[rows, columns].astype(np.float64)
    lines: list[Line] = []
    for place in np.argsort(-length)[:150]:
        ends = segments[place].reshape(2, 2)
        if any(_on(ends, other, 3.0) for other in lines):
            continue
        line = _fitted(ends, paint, weight, width / 8)
        if line is not None and not any(_on(line.ends, other, 4.0) for other in lines):
            lines.append(line)
    lines.sort(key=lambda line: -line.support)
    return lines[:MOST_LINES]


def _fitted(ends: Points, paint: Points, weight: Points, most_gap: float) -> Line | None:
    """A line through the paint near a segment, drawn out to the paint that lies on it without a longer gap."""
    spread, middle, way = np.zeros(0), ends[0], ends[1] - ends[0]
    for band, reach in ((3.0, 8.0), (2.0, 60.0), (1.6, 1e9)):
        way = ends[1] - ends[0]
        length = float(np.hypot(*way))
        way = way / max(1e-9, length)
        normal = np.array([-way[1], way[0]])
        across, along = (paint - ends[0]) @ normal, (paint - ends[0]) @ way
        near = np.flatnonzero((np.abs(across) < band) & (along > -reach) & (along < length + reach))
        near = near[_without_gap(along[near], length / 2, most_gap)]
        if len(near) < 12:
            return None
        at, importance = paint[near], weight[near]
        middle = np.average(at, axis=0, weights=importance)
        _, vectors = np.linalg.eigh((at - middle).T @ ((at - middle) * importance[:, None]))
        way, spread = vectors[:, 1], (at - middle) @ vectors[:, 1]
        ends = middle + np.outer([spread.min(), spread.max()], way)
    normal = np.array([-way[1], way[0]])
    support = float(len(np.unique(np.round(spread))))
    return None if support < 0.3 * np.ptp(spread) else Line(normal, float(normal @ middle), ends, support)


def _without_gap(along: Points, start: float, most: float) -> npt.NDArray[np.int64]:
    """Places of those values that hang together around `start`, with no step longer than `most`."""
    order = np.argsort(along)
    breaks = np.flatnonzero(np.diff(along[order]) > most) + 1
    parts = np.split(order, breaks)
    return min(parts, key=lambda part: float(np.abs(along[part] - start).min()) if len(part) else np.inf)


def _on(ends: Points, line: Line, within: float) -> bool:
    """Whether both ends lie on the line, nearly."""
    return bool((np.abs(ends @ line.normal - line.offset) < within).all())
