"""A map laid on all the paint at once: each visible piece of a marking is drawn to the paint beside it.

Gauss-Newton on the distances along the normals of the projected markings (Harris and Stennett, RAPiD, 1990), with
Tukey's weights against players and shadows. Its normal equations also tell how well the paint fixes the map.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from serving.pitch.lines import Seen
from serving.pitch.model import LINE_WIDTH, Matrix, Pitch, Points, project

NEAR = 3.0  # working pixels from a marking to its paint
STEP = 0.5
PLAIN, PLAIN_SHARE = 1.0, 0.6  # pixels: thinner lines are pale; much thinner ones may be missing


@dataclass(frozen=True, slots=True)
class Fit:
    """matrix: metres -> working pixels. error: RMS of the distances of the inliers, working pixels. coverage: part of
    the visible markings with paint within `NEAR`, by pixels of length. explained: part of the paint that lies on a
    marking. gain: pixels of markings with paint less those without. unsure: metres that the map may be off at the worst
    twentieth of the visible pitch (one sigma). markings: how many have paint. bare: how many that are plainly in view
    have none."""

    matrix: Matrix
    error: float
    inliers: int
    coverage: float
    explained: float
    gain: float
    unsure: float
    markings: int
    bare: int


def fitted(seen: Seen, matrix: Matrix, pitch: Pitch, reaches: tuple[float, ...] = (10, 6, 4, 4)) -> Fit | None:
    """The map nearby that fits best; None where it falls apart. reaches: pixels to look along the normals, in turn."""
    points, directions, groups = pitch.samples
    size = seen.mask.shape
    current, normal_matrix = matrix, np.zeros((8, 8))
    for reach in reaches:
        near = _distances(seen, current, points, directions, reach)
        use = near.found & (np.abs(near.off) < reach)
        if use.sum() < 20:
            return None
        step, normal_matrix = _step(current, points[use], near.at[use], near.normal[use], near.off[use], reach, size)
        current = step @ current if np.isfinite(step).all() else current
        current = current / np.abs(current).max()
    near = _distances(seen, current, points, directions, NEAR + 1)
    return _judged(seen, current, pitch, near, normal_matrix, groups)


@dataclass(frozen=True, slots=True)
class _Near:
    at: Points
    normal: Points
    off: Points
    found: Points
    pixels: Points  # length of a sample in the picture, less where its line is too thin to be seen
    plain: Points  # the same, 0 where its line is so thin that it may be missing


def _distances(seen: Seen, matrix: Matrix, points: Points, directions: Points, reach: float) -> _Near:
    """Where the paint is along each sample's normal."""
    height, width = seen.mask.shape
    at, ahead = project(matrix, points), project(matrix, points + 0.1 * directions)
    way = (ahead - at) * 10
    pixels = np.hypot(way[:, 0], way[:, 1])
    visible = np.isfinite(at).all(axis=1) & np.isfinite(pixels) & (pixels > 0.3)
    visible &= (at > 2).all(axis=1) & (at[:, 0] < width - 3) & (at[:, 1] < height - 3)
    normal = np.stack([-way[:, 1], way[:, 0]], axis=1) / np.maximum(pixels, 1e-9)[:, None]
    aside = project(matrix, points + 0.1 * directions[:, ::-1] * [-1, 1])
    thick = np.abs(((aside - at) * normal).sum(axis=1)) * 10 * LINE_WIDTH
    length = np.where(visible, np.minimum(pixels, 40) * np.clip(np.nan_to_num(thick) / PLAIN, 0, 1), 0)
    offsets = np.arange(-reach, reach + STEP / 2, STEP)
    places = np.where(visible[:, None], at, 0)[:, None] + np.nan_to_num(normal)[:, None] * offsets[None, :, None]
    grey = cv2.remap(seen.paint, places[..., 0].astype(np.float32), places[..., 1].astype(np.float32), cv2.INTER_LINEAR)
    peak = (grey * (1.2 - (offsets / reach) ** 2)).argmax(axis=1)
    window = np.abs(np.arange(len(offsets))[None] - peak[:, None]) <= 4
    part = np.where(window, grey, 0) + 1e-9
    off = (part * offsets).sum(axis=1) / part.sum(axis=1)
    found = visible & (grey[np.arange(len(grey)), peak] > 0.6 * seen.noise)
    return _Near(at, normal, off, found, length, length * (thick > PLAIN_SHARE * PLAIN))


def _step(
    matrix: Matrix, points: Points, at: Points, normal: Points, off: Points, reach: float, size: tuple[int, int]
) -> tuple[Matrix, Matrix]:
    """A small homography of the picture that moves the markings onto the paint, and J'J in pixels (weights 1)."""
    unit, middle = size[1] / 2, np.array([size[1], size[0]]) / 2
    x, y = ((at - middle) / unit).T
    one, none = np.ones(len(x)), np.zeros(len(x))
    along_x = np.stack([x, y, one, none, none, none, -x * x, -x * y], axis=1)
    along_y = np.stack([none, none, none, x, y, one, -x * y, -y * y], axis=1)
    rows = (normal[:, :1] * along_x + normal[:, 1:] * along_y) * unit
    scale = max(1.0, 1.4826 * float(np.median(np.abs(off)))) * 4.685
    weight = np.where(np.abs(off) < scale, (1 - (off / scale) ** 2) ** 2, 0)
    normal_matrix = rows.T @ (rows * weight[:, None])
    change = np.linalg.solve(normal_matrix + 1e-3 * np.eye(8) * len(rows), rows.T @ (weight * off))
    small = np.eye(3) + np.array([[*change[:3]], [*change[3:6]], [*change[6:], 0]])
    to_unit = np.array([[1 / unit, 0, -middle[0] / unit], [0, 1 / unit, -middle[1] / unit], [0, 0, 1]])
    return np.linalg.inv(to_unit) @ small @ to_unit, normal_matrix


def _judged(seen: Seen, matrix: Matrix, pitch: Pitch, near: _Near, normal_matrix: Matrix, groups: Points) -> Fit | None:
    inlier = near.found & (np.abs(near.off) < NEAR)
    if inlier.sum() < 20:
        return None
    error = float(np.sqrt(np.mean(near.off[inlier] ** 2)))
    total = float(near.pixels.sum())
    covered = float(near.pixels[inlier].sum())
    gain = covered - 0.7 * (total - covered)
    markings = sum(int(inlier[groups == group].sum() >= 5) for group in np.unique(groups[inlier]))
    length, painted = np.bincount(groups, near.plain), np.bincount(groups, near.plain * inlier)
    bare = int(((length > 0.03 * seen.mask.shape[1]) & (painted < 0.4 * length)).sum())
    unsure = _unsure(seen, matrix, pitch, normal_matrix, max(error, 0.7))
    explained = _explained(seen, matrix, pitch)
    return Fit(matrix, error, int(inlier.sum()), covered / total, explained, gain, unsure, markings, bare)


def _explained(seen: Seen, matrix: Matrix, pitch: Pitch) -> float:
    """The part of the paint with a marking within 5 pixels."""
    canvas = np.full(seen.mask.shape, 255, np.uint8)
    points, _, groups = pitch.samples
    at = project(matrix, points)
    for group in range(int(groups.max()) + 1):
        line = at[groups == group]
        line = line[np.isfinite(line).all(axis=1) & (np.abs(line) < 8000).all(axis=1)]
        if len(line) > 1:
            cv2.polylines(canvas, [np.round(line * 8).astype(np.int32)], False, 0, 1, cv2.LINE_8, 3)
    off = cv2.distanceTransform(canvas, cv2.DIST_L2, 3)
    paint = seen.mask > 0
    return float((off[paint] < 5).mean()) if paint.any() else 0.0


def _unsure(seen: Seen, matrix: Matrix, pitch: Pitch, normal_matrix: Matrix, sigma: float) -> float:
    """One sigma in metres of the map over the visible pitch, the 95th percentile of a grid.

    Neighbouring samples share their errors: each tenth of them counts as a measurement of its own.
    """
    height, width = seen.mask.shape
    try:
        spread = np.linalg.inv(normal_matrix / 10 + 1e-9 * np.eye(8)) * sigma**2
    except np.linalg.LinAlgError:
        return float("inf")
    grid = np.stack(np.meshgrid(np.linspace(0, width - 1, 16), np.linspace(0, height - 1, 10)), -1).reshape(-1, 2)
    back = np.linalg.inv(matrix)
    metres = project(back * np.sign((back @ [width / 2, height - 1.0, 1])[2]), grid)
    on = ((metres > -1) & (metres < [pitch.length + 1, pitch.width + 1])).all(axis=1)
    if on.sum() < 6:
        return float("inf")
    unit, middle = width / 2, np.array([width, height]) / 2
    x, y = ((grid[on] - middle) / unit).T
    one, none = np.ones(len(x)), np.zeros(len(x))
    moves = np.stack([
        np.stack([x, y, one, none, none, none, -x * x, -x * y], axis=1),
        np.stack([none, none, none, x, y, one, -x * y, -y * y], axis=1),
    ], axis=1) * unit  # fmt: skip
    # metres a pixel, by differences
    ahead = [project(back * np.sign((back @ [width / 2, height - 1.0, 1])[2]), grid[on] + step) - metres[on]
             for step in ([0.5, 0], [0, 0.5])]  # fmt: skip
    slope = np.stack(ahead, axis=2) * 2
    total = slope @ moves
    variance = np.einsum("nij,jk,nik->n", total, spread, total)
    variance = variance[np.isfinite(variance)]
    return float(np.sqrt(np.percentile(variance, 95))) if len(variance) else float("inf")
