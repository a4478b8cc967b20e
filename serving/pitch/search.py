"""Which line of the pitch is which: every two lines by every other two, laid on every rectangle of the markings.

Two lines of one direction and two of the other give four corners, so a homography (the hypotheses of Farin et al.
2004). Three checks come before any picture is looked at: lines that are parallel on the pitch do not meet inside the
picture, the horizon passes above the paint, and a camera with square pixels that looks through the picture's middle
could have seen the rectangle with its very sides (both columns of the homography equally long under the image of the
absolute conic, Zhang 2000). What is left is scored by how much of the visible markings has paint under it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from serving.pitch.circle import by_circle
from serving.pitch.lines import Line, Seen
from serving.pitch.model import Matrix, Pitch, Points

KEPT = 40  # hypotheses that are looked at closely
STRETCH = 1.6  # how far off square the pixels of a hypothesis may be
FOCAL = (0.35, 12.0)  # in picture widths


def hypotheses(seen: Seen, lines: Sequence[Line], pitch: Pitch) -> list[Matrix]:
    """Homographies metres -> working pixels, the most promising first, at most `KEPT`."""
    rectangles = _rectangles(pitch)
    found = [h for quad in _quads(seen, lines) for h in _laid(quad, rectangles, seen.mask.shape)]
    round_ = np.array(by_circle(seen, lines, pitch)).reshape(-1, 3, 3)
    found += list(round_[_seeable(round_, seen.mask.shape)])
    return ranked(seen, np.array(found), pitch) if found else []


def ranked(seen: Seen, matrices: Points, pitch: Pitch) -> list[Matrix]:
    """The best of many [n, 3, 3]: each gains what it explains and pays for markings without paint, in pixels."""
    scores = np.concatenate(
        [_scores(seen, part, pitch) for part in np.array_split(matrices, len(matrices) // 2000 + 1)]
    )
    order = np.argsort(-scores, kind="stable")
    return [matrices[n] for n in order[:KEPT] if scores[n] > 0]


def _rectangles(pitch: Pitch) -> Points:
    """Every rectangle between two lines across and two along: [n, 4] as x0, y0, x1, y1, both orders of x."""
    rows = []
    for x0, x1 in combinations(pitch.across, 2):
        for y0, y1 in combinations(pitch.along, 2):
            rows.append((x0, y0, x1, y1))
    return np.array(rows)


def _quads(seen: Seen, lines: Sequence[Line]) -> Iterator[Points]:
    """Homographies of the unit square onto four corners in the picture, its u axis along the pitch."""
    height, width = seen.mask.shape
    rows, columns = np.nonzero(seen.mask)
    take = np.linspace(0, len(rows) - 1, 200).astype(np.int64)
    paint = np.column_stack([columns[take], rows[take], np.ones(200)])
    rows_of = [line.homogeneous for line in lines]
    meet = np.cross(np.array(rows_of)[:, None], np.array(rows_of)[None])  # [lines, lines, 3]
    pairs = [(i, j) for i, j in combinations(range(len(lines)), 2) if _parallel(meet[i, j], (height, width))]
    for a, b in pairs:
        for c, d in pairs:
            if len({a, b, c, d}) < 4:
                continue
            quad = _quad(meet[[a, b, b, a], [c, c, d, d]], paint)
            if quad is not None:
                yield quad


def _parallel(meet: Points, size: tuple[int, int]) -> bool:
    """Whether lines that meet there may be parallel on the pitch: it is outside the picture."""
    x, y, w = meet.tolist()
    if abs(w) < 1e-9:
        return True
    x, y, (height, width) = x / w, y / w, size
    return not (-0.05 * width < x < 1.05 * width and -0.05 * height < y < 1.05 * height)


def _quad(corners: Points, paint: Points) -> Matrix | None:
    """Unit square -> pixels, its corners (0, 0), (1, 0), (1, 1), (0, 1) [4, 3] in the order that is no mirror image."""
    if np.abs(corners[:, 2]).min() < 1e-9:
        return None
    at = corners[:, :2] / corners[:, 2:]
    if np.abs(at).max() > 2e4:
        return None
    turn = at - np.roll(at, 1, axis=0)
    crossed = turn[:, 0] * np.roll(turn[:, 1], -1) - turn[:, 1] * np.roll(turn[:, 0], -1)
    if (crossed < 0).all():
        at = at[[1, 0, 3, 2]]  # a mirror image; half a turn needs no second try, the pitch looks the same
    elif not (crossed > 0).all():
        return None
    matrix = square_to(at)
    inverse = np.linalg.inv(matrix)
    w = paint @ inverse[2]
    sign = np.sign(w[np.abs(w).argmax()])
    if (w * sign < 0).mean() > 0.02:
        return None  # a horizon through the paint
    return matrix


def square_to(at: Points) -> Matrix:
    """The homography of (0, 0), (1, 0), (1, 1), (0, 1) onto four points [4, 2] (Heckbert 1989)."""
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = at
    sx, sy = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    dx1, dx2, dy1, dy2 = x1 - x2, x3 - x2, y1 - y2, y3 - y2
    size = dx1 * dy2 - dx2 * dy1
    g, h = (sx * dy2 - dx2 * sy) / size, (dx1 * sy - sx * dy1) / size
    return np.array([[x1 - x0 + g * x1, x3 - x0 + h * x3, x0], [y1 - y0 + g * y1, y3 - y0 + h * y3, y0], [g, h, 1]])


def _laid(square: Matrix, rectangles: Points, size: tuple[int, int]) -> Points:
    """The rectangles whose sides a camera could have seen as this quadrilateral: metres -> pixels, [n, 3, 3]."""
    x0, y0, x1, y1 = rectangles.T
    wide, high = x1 - x0, y1 - y0
    # metres -> square: u = (x - x0) / wide, v = (y - y0) / high
    matrices = np.zeros((len(rectangles), 3, 3))
    matrices[:, :, 0] = square[:, 0] / wide[:, None]
    matrices[:, :, 1] = square[:, 1] / high[:, None]
    matrices[:, :, 2] = square[:, 2] - matrices[:, :, 0] * x0[:, None] - matrices[:, :, 1] * y0[:, None]
    return matrices[_seeable(matrices, size)]


def _seeable(matrices: Points, size: tuple[int, int]) -> Points:
    """Which could be the picture of a pinhole camera with square pixels and its axis in the middle: bool [n]."""
    height, width = size
    centred = matrices.copy()
    centred[:, 0] -= (width - 1) / 2 * matrices[:, 2]
    centred[:, 1] -= (height - 1) / 2 * matrices[:, 2]
    (a, b, c), (d, e, f) = centred[:, :, 0].T, centred[:, :, 1].T
    with np.errstate(divide="ignore", invalid="ignore"):
        focal2 = -(a * d + b * e) / (c * f)
        flat = (np.abs(c * f) * width * width) < 1e-3 * np.abs(a * d + b * e)
        # one vanishing point far away: the focal length is told by the other condition
        other2 = (d * d + e * e - a * a - b * b) / (c * c - f * f)
        focal2 = np.where(flat | (focal2 <= 0), other2, focal2)
        stretch = (a * a + b * b + focal2 * c * c) / (d * d + e * e + focal2 * f * f)
        skew = np.abs(a * d + b * e + focal2 * c * f) / np.sqrt(
            (a * a + b * b + focal2 * c * c) * (d * d + e * e + focal2 * f * f)
        )
    fine = (focal2 > (FOCAL[0] * width) ** 2) & (focal2 < (FOCAL[1] * width) ** 2)
    return np.asarray(fine & (stretch > STRETCH**-2) & (stretch < STRETCH**2) & (skew < 0.25))


def _scores(seen: Seen, matrices: Points, pitch: Pitch) -> Points:
    points, _, _ = pitch.samples
    points = points[::2]
    x, y, w = np.einsum("nij,pj->inp", matrices, np.column_stack([points, np.ones(len(points))])).astype(np.float32)
    height, width = seen.mask.shape
    w = np.where(w > 1e-9, w, np.nan)
    x, y = x / w, y / w
    inside = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
    column = np.where(inside, np.nan_to_num(x), 0).astype(np.int32)
    row = np.where(inside, np.nan_to_num(y), 0).astype(np.int32)
    hit = np.clip(1 - seen.off[row, column] / 8.0, 0, 1)
    # a metre counts as many pixels as it covers: what is far is hardly seen
    step = np.hypot(np.diff(x, axis=1, append=x[:, -1:]), np.diff(y, axis=1, append=y[:, -1:]))
    weight = np.where(inside & np.isfinite(step), np.minimum(step, 40.0), 0.0)
    return np.asarray((weight * (1.6 * hit - 0.6)).sum(axis=1), np.float64)
