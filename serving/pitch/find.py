"""One picture -> the map of the pitch, or `unknown` with the reason. Never a guess: see `trusted`."""

from __future__ import annotations

import numpy as np

from serving.pitch.fit import Fit, fitted
from serving.pitch.lines import LEAST_GRASS, Seen, look, straight_lines
from serving.pitch.model import PITCH, FieldMap, Matrix, Pitch, Points, metres_of, normalised, project, to_pixels
from serving.pitch.search import hypotheses
from serving.types import PixelArray

LEAST_COVERAGE = 0.85  # of the visible markings have paint
LEAST_EXPLAINED = 0.75  # of the paint is a marking
MOST_ERROR = 0.7  # working pixels
MOST_UNSURE = 1.0  # metres
OTHER = 2.0  # metres: maps that differ more are two
RIVAL = 0.9  # of the best gain
LOOKED_AT = 12


def find_pitch(rgb: PixelArray, pitch: Pitch = PITCH, near: Matrix | None = None) -> FieldMap:
    """rgb: uint8 [h, w, 3]. near: pixels -> metres of the picture before (a video): tried first."""
    seen = look(rgb)
    if seen.grass < LEAST_GRASS:
        return FieldMap(None, reason="no_grass")
    if near is not None and (follow := _followed(seen, near, pitch)) is not None:
        return _told(seen, follow, pitch)
    lines = straight_lines(seen)
    if len(lines) < 3:
        return FieldMap(None, reason="few_lines")
    best, rival = _best(seen, [fit for h in hypotheses(seen, lines, pitch)[:LOOKED_AT]
                               if (fit := fitted(seen, h, pitch, (10, 6))) is not None], pitch)  # fmt: skip
    if best is None:
        return FieldMap(None, reason="few_lines" if len(lines) < 4 else "no_fit")
    if rival:
        return FieldMap(None, reason="ambiguous")
    return _told(seen, best, pitch)


def trusted(fit: Fit) -> bool:
    """Whether a fit is good enough to be told: paint and markings agree both ways, closely, and fix the map."""
    return (
        fit.coverage >= LEAST_COVERAGE
        and fit.explained >= LEAST_EXPLAINED
        and fit.error <= MOST_ERROR
        and fit.unsure <= MOST_UNSURE
        and not fit.bare
    )


def _followed(seen: Seen, near: Matrix, pitch: Pitch) -> Fit | None:
    scale = np.diag([seen.scale, seen.scale, 1.0])
    try:
        start = scale @ to_pixels(near)
        fit = fitted(seen, start, pitch, (24, 16, 10, 6, 4, 4))
    except np.linalg.LinAlgError:
        return None
    return fit if fit is not None and trusted(fit) else None


def _best(seen: Seen, fits: list[Fit], pitch: Pitch) -> tuple[Fit | None, bool]:
    """The trusted fit with the most gain, and whether another map is nearly as good."""
    fits = sorted(fits, key=lambda fit: -fit.gain * fit.explained)
    found = None
    for fit in fits[:4]:
        for reaches in ((6, 4, 4), (20, 14, 8, 5, 4)):
            again = fitted(seen, fit.matrix, pitch, reaches)
            if again is not None and trusted(again) and (found is None or again.gain > found.gain):
                found = again
        if found is not None:
            break
    if found is None:
        return None, False
    return found, any(_rivals(seen, found, other, pitch) for other in fits)


def _rivals(seen: Seen, best: Fit, other: Fit, pitch: Pitch) -> bool:
    if other.gain * other.explained < RIVAL * best.gain * best.explained:
        return False
    one, two = _grid(seen, best.matrix), _grid(seen, other.matrix)
    turned = project(pitch.turned, np.nan_to_num(two))
    inside = ((one > 0) & (one < [pitch.length, pitch.width])).all(axis=1)
    apart = [float(np.nanmax(np.hypot(*(one - at)[inside].T), initial=0.0)) for at in (two, turned)]
    return min(apart) > OTHER


def _grid(seen: Seen, matrix: Matrix) -> Points:
    height, width = seen.mask.shape
    at = np.stack(np.meshgrid(np.linspace(0, width - 1, 9), np.linspace(0, height - 1, 7)), axis=-1).reshape(-1, 2)
    return metres_of(np.linalg.inv(matrix), at)


def _told(seen: Seen, fit: Fit, pitch: Pitch) -> FieldMap:
    to_metres = np.linalg.inv(fit.matrix) @ np.diag([seen.scale, seen.scale, 1.0])
    return FieldMap(normalised(facing(to_metres, seen, pitch)), fit.error / seen.scale, fit.inliers, fit.coverage)


def facing(to_metres: Matrix, seen: Seen, pitch: Pitch) -> Matrix:
    """Of the two maps that the pitch's symmetry leaves, that with x to the right in the picture; of a camera behind a
    goal, that with y to the right."""
    height, width = seen.mask.shape
    left, right = metres_of(
        to_metres, np.array([[0.45 * width, 0.7 * height], [0.55 * width, 0.7 * height]]) / seen.scale
    )
    x, y = right - left
    main = x if abs(x) >= 0.5 * abs(y) else y
    return pitch.turned @ to_metres if main < 0 else to_metres
