"""The middle of the pitch: centre circle, halfway line and one touchline make a map where there are no four lines.

The pole of the halfway line under the circle's conic is the vanishing point of the touchlines (Hartley and Zisserman,
Multiple View Geometry, 2.2.3); the touchline fixes the scale along the halfway line by a cross-ratio of four points.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from serving.pitch.lines import Line, Seen
from serving.pitch.model import CIRCLE, Matrix, Pitch, Points

TRIES = 300


def by_circle(seen: Seen, lines: Sequence[Line], pitch: Pitch) -> list[Matrix]:
    """Homographies metres -> working pixels."""
    conic = _circle(seen, lines)
    return [] if conic is None else from_conic(conic, lines, pitch)


def from_conic(conic: Matrix, lines: Sequence[Line], pitch: Pitch) -> list[Matrix]:
    """conic: symmetric [3, 3] of the centre circle in pixels. Every line through it may be the halfway line."""
    found = []
    for halfway in lines:
        cut = _meets(conic, halfway.homogeneous)
        if cut is None:
            continue
        vanishing = np.linalg.solve(conic, halfway.homogeneous)
        for touch in lines:
            if touch is halfway or _meets(conic, touch.homogeneous) is not None:
                continue
            matrix = _laid(conic, cut, vanishing, touch.homogeneous, halfway.homogeneous, pitch)
            if matrix is not None:
                found.append(matrix)
    return found


def _circle(seen: Seen, lines: Sequence[Line]) -> Matrix | None:
    """The ellipse with the most paint on it, once the long lines are taken away (RANSAC, Fischler and Bolles 1981)."""
    rows, columns = np.nonzero(seen.mask)
    at = np.column_stack([columns, rows]).astype(np.float64)
    width = seen.mask.shape[1]
    for line in lines:
        if line.support > width / 5:
            at = at[np.abs(at @ line.normal - line.offset) > 4]
    if len(at) < 60:
        return None
    rng = np.random.default_rng(0)
    scaled = (at - [width / 2, seen.mask.shape[0] / 2]) / width
    terms = _terms(scaled)
    sets = np.stack([rng.choice(len(at), 5, replace=False) for _ in range(TRIES)])
    conics = np.linalg.svd(terms[sets])[2][:, -1]
    best, most = None, 0.15 * len(at)
    for conic in conics:
        if 4 * conic[0] * conic[2] <= conic[1] ** 2:
            continue  # no ellipse
        on = _near(conic, scaled, terms, 2.0 / width)
        if on.sum() > most:
            best, most = on, float(on.sum())
    if best is None or most < 60:
        return None
    for _ in range(3):
        conic = np.linalg.eigh(terms[best].T @ terms[best])[1][:, 0]
        best = _near(conic, scaled, terms, 1.5 / width)
        if best.sum() < 60:
            return None
    a, b, c, d, e, f = conic
    if 4 * a * c <= b * b:
        return None
    move = np.array([[1 / width, 0, -0.5], [0, 1 / width, -seen.mask.shape[0] / 2 / width], [0, 0, 1]])
    return np.asarray(move.T @ np.array([[a, b / 2, d / 2], [b / 2, c, e / 2], [d / 2, e / 2, f]]) @ move)


def _terms(at: Points) -> Points:
    x, y = at.T
    return np.column_stack([x * x, x * y, y * y, x, y, np.ones(len(at))])


def _near(conic: Points, at: Points, terms: Points, within: float) -> Points:
    """Which points lie on it: first-order distance (Sampson 1982)."""
    a, b, c, d, e, _ = conic
    x, y = at.T
    slope = np.hypot(2 * a * x + b * y + d, b * x + 2 * c * y + e)
    return np.asarray(np.abs(terms @ conic) < within * np.maximum(slope, 1e-12))


def _meets(conic: Matrix, line: Points) -> tuple[Points, Points] | None:
    """The two points where a line cuts a conic, the upper one first; None where it does not."""
    way = np.array([line[1], -line[0], 0.0])
    start = np.array([-line[0] * line[2], -line[1] * line[2], line[0] ** 2 + line[1] ** 2])
    start = start / start[2]
    a, b, c = way @ conic @ way, 2 * way @ conic @ start, start @ conic @ start
    root = b * b - 4 * a * c
    if root <= 0 or abs(a) < 1e-18:
        return None
    found = [start + way * (-b + sign * np.sqrt(root)) / (2 * a) for sign in (-1, 1)]
    found.sort(key=lambda p: float(p[1]))
    return found[0], found[1]


def _laid(
    conic: Matrix, cut: tuple[Points, Points], vanishing: Points, touch: Points, halfway: Points, pitch: Pitch
) -> Matrix | None:
    far, near = cut
    corner = np.cross(touch, halfway)
    if abs(corner[2]) < 1e-12 or abs(vanishing @ touch) > 0.05 * np.linalg.norm(vanishing[:2]) * np.hypot(*touch[:2]):
        return None
    corner = corner / corner[2]
    way = (near - far)[:2] / np.hypot(*(near - far)[:2])
    s_near, s_corner = float((near - far)[:2] @ way), float((corner - far)[:2] @ way)
    middle = pitch.width / 2
    # s = (p y + q) / (r y + 1) along the halfway line, y metres
    heights = (middle - CIRCLE, middle + CIRCLE, 0.0 if s_corner < 0 else pitch.width)
    rows = [[y, 1, -s * y] for y, s in zip(heights, (0.0, s_near, s_corner), strict=True)]
    try:
        p, q, r = np.linalg.solve(np.array(rows), np.array([0.0, s_near, s_corner]))
    except np.linalg.LinAlgError:
        return None
    if r * middle + 1 == 0:
        return None
    centre = np.array([*(far[:2] + way * (p * middle + q) / (r * middle + 1)), 1.0])
    sides = _meets(conic, np.cross(vanishing, centre))
    if sides is None:
        return None
    left, right = sorted(sides, key=lambda point: float(point[0]))
    around = np.array([[0, -CIRCLE], [0, CIRCLE], [-CIRCLE, 0], [CIRCLE, 0]])
    metres = around + np.array([pitch.length / 2, middle])
    pixels = np.array([far[:2], near[:2], left[:2], right[:2]])
    return np.asarray(cv2.getPerspectiveTransform(metres.astype(np.float32), pixels.astype(np.float32)), np.float64)
