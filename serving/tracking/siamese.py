"""One object followed by the correlation of feature maps (SiamFC: Bertinetto et al. 2016, arXiv 1606.09549).

The map of the object as it was given, the template, is laid on every place of the map of a search crop; how alike they
are is a score in 0..1. Three crops of slightly different sizes tell whether the object grows or shrinks. A network
without padding makes the maps (`models/architectures/siamfc.py`); this file is arithmetic on them and knows no engine.

All values are frozen and flow forward: a step that failed can be made again from the target before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from serving.types import FloatArray, PixelArray

NS_PER_S = 1_000_000_000
Point = tuple[float, float]
Embed = Callable[[Sequence[PixelArray]], FloatArray]  # search crops, uint8 [side, side, 3] -> maps float32 [n, c, h, w]


@dataclass(frozen=True, slots=True)
class SiameseRules:
    """Geometry of the network, and how scores move the box.

    search, template, stride: pixels of the crops and of a cell; cells: of the template's map. context: how much of the
    surroundings the template sees, of the box's mean side. sharpness, middle: of the score, sigmoid(sharpness *
    (likeness - middle)); training uses the same. scales: step, penalty and rate of change, at 25 pictures a second.
    window: share of the cosine window in the choice. lost_below, found_above: scores. crops: most search crops of one
    picture while the object is lost. spread: how fast the search widens, search crops a second. update: share of the
    present look in the template.
    """

    search: int = 127
    template: int = 63
    stride: int = 4
    cells: int = 8
    context: float = 0.5
    sharpness: float = 12.0
    middle: float = 0.45
    scale_step: float = 1.04
    scale_penalty: float = 0.995
    scale_rate: float = 0.5
    window: float = 0.15
    lost_below: float = 0.3
    found_above: float = 0.5
    crops: int = 8
    spread: float = 1.0
    update: float = 0.005


class TargetState(StrEnum):
    """What is known of the object in this picture."""

    TRACKING = "tracking"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Target:
    """An object as it was seen last. centre, size: pixels of the picture; velocity: pixels a second.

    template: float32 [c, n, n]. turn: search crops that were looked at since it was lost.
    """

    template: FloatArray
    centre: Point
    size: Point
    pts_ns: int
    score: float = 1.0
    state: TargetState = TargetState.TRACKING
    velocity: Point = (0.0, 0.0)
    seen_ns: int = 0
    turn: int = 0

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """The box; while it is lost, where it was seen last."""
        (x, y), (w, h) = self.centre, self.size
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2


@dataclass(frozen=True, slots=True)
class _Crop:
    """A square of the picture at the network's size. centre: of the square; pixel: source pixels of one of its own."""

    pixels: PixelArray
    centre: Point
    pixel: float


def begin(picture: PixelArray, xyxy: Sequence[float], pts_ns: int, embed: Embed, rules: SiameseRules) -> Target:
    """The object in the box of this picture: its template is the middle of the map around it."""
    x1, y1, x2, y2 = xyxy
    centre, size = ((x1 + x2) / 2, (y1 + y2) / 2), (x2 - x1, y2 - y1)
    found = embed([_crop(picture, centre, _search_side(size, rules), rules).pixels])[0]
    first = (found.shape[1] - rules.cells) // 2
    return Target(_part(found, first, first, rules), centre, size, pts_ns, seen_ns=pts_ns)


def follow(target: Target, picture: PixelArray, pts_ns: int, embed: Embed, rules: SiameseRules) -> Target:
    """The object in the next picture, which is of a later time."""
    if target.state is TargetState.LOST:
        return _search(target, picture, pts_ns, embed, rules)
    return _track(target, picture, pts_ns, embed, rules)


def _track(target: Target, picture: PixelArray, pts_ns: int, embed: Embed, rules: SiameseRules) -> Target:
    elapsed = (pts_ns - target.pts_ns) / NS_PER_S
    steps = tuple(rules.scale_step**power for power in (-1, 0, 1))
    side, expected = _search_side(target.size, rules), _expected(target, elapsed)
    crops = [_crop(picture, expected, side * step, rules) for step in steps]
    maps = embed([crop.pixels for crop in crops])
    alike = np.stack([likeness_map(target.template, found) for found in maps])
    wanted = alike * np.array([rules.scale_penalty, 1.0, rules.scale_penalty])[:, None, None]
    wanted = (1 - rules.window) * wanted + rules.window * _cosine_window(alike.shape[1])
    scale, row, column = (int(v) for v in np.unravel_index(int(wanted.argmax()), wanted.shape))
    score = float(score_of(alike[scale, row, column], rules))
    if score < rules.lost_below:
        return replace(target, pts_ns=pts_ns, score=score, state=TargetState.LOST, turn=0)
    centre = _place(alike[scale], row, column, crops[scale], rules)
    rate = 1 - (1 - rules.scale_rate) ** max(1.0, 25 * elapsed)
    factor = 1 + rate * (steps[scale] - 1)
    size = _within(picture, target.size[0] * factor, target.size[1] * factor)
    template = _updated(target.template, maps[scale], row, column, score, rules)
    velocity = _velocity(target, centre, elapsed)
    return Target(template, centre, size, pts_ns, score, velocity=velocity, seen_ns=pts_ns)


def _search(target: Target, picture: PixelArray, pts_ns: int, embed: Embed, rules: SiameseRules) -> Target:
    """Look around where it was seen last, ever wider with the time that passed, a few places a picture."""
    side = _search_side(target.size, rules)
    places = _places(target, picture, side, pts_ns, rules)
    chosen = [places[(target.turn + n) % len(places)] for n in range(min(rules.crops - 1, len(places)))]
    crops = [_crop(picture, place, side, rules) for place in (target.centre, *chosen)]
    alike = [likeness_map(target.template, found) for found in embed([crop.pixels for crop in crops])]
    best = int(np.argmax([one.max() for one in alike]))
    row, column = (int(v) for v in np.unravel_index(int(alike[best].argmax()), alike[best].shape))
    score = float(score_of(alike[best][row, column], rules))
    if score < rules.found_above:
        return replace(target, pts_ns=pts_ns, score=score, turn=target.turn + len(chosen))
    centre = _place(alike[best], row, column, crops[best], rules)
    return Target(target.template, centre, target.size, pts_ns, score, seen_ns=pts_ns)


def score_of(likeness: npt.ArrayLike, rules: SiameseRules) -> npt.NDArray[np.float64]:
    """Likeness as a score in 0..1."""
    return np.asarray(1 / (1 + np.exp(-rules.sharpness * (np.asarray(likeness) - rules.middle))))


def likeness_map(template: FloatArray, found: FloatArray) -> npt.NDArray[np.float64]:
    """How alike the template [c, n, n] is to each place of a map [c, m, m]: weighted mean of the cells' cosines,
    [m - n + 1, m - n + 1]."""
    cells, wide = template.shape[1], found.shape[1] - template.shape[1] + 1
    weighted = (template * cell_weights(cells)).reshape(len(template), -1)
    flat = found.reshape(len(found), -1).astype(np.float64)  # in FP32 the sum would depend on the number of threads
    each = (weighted.T.astype(np.float64) @ flat).reshape(cells, cells, *found.shape[1:])
    likeness = np.zeros((wide, wide))
    for row in range(cells):
        for column in range(cells):
            likeness += each[row, column, row : row + wide, column : column + wide]
    return likeness


@lru_cache(maxsize=4)
def cell_weights(cells: int) -> FloatArray:
    """Weight of each cell of a template, float32 [n, n], sum 1: the object is in the middle, its surroundings are not
    it."""
    place = (np.arange(cells) - (cells - 1) / 2) / (cells / 2)
    bell = np.exp(-2.0 * (place[:, None] ** 2 + place[None, :] ** 2))
    return np.asarray(bell / bell.sum(), np.float32)


@lru_cache(maxsize=4)
def _cosine_window(side: int) -> npt.NDArray[np.float64]:
    line = np.hanning(side + 2)[1:-1]
    return np.asarray(np.outer(line, line))


def _search_side(size: Point, rules: SiameseRules) -> float:
    """Source pixels of the search crop's side: the template's square has the area of the box with its context."""
    more = rules.context * (size[0] + size[1])
    return math.sqrt((size[0] + more) * (size[1] + more)) * rules.search / rules.template


def _crop(picture: PixelArray, centre: Point, side: float, rules: SiameseRules) -> _Crop:
    """Whole source pixels, what lies outside the picture in its mean colour, at the network's size."""
    wide = max(4, round(side))
    x, y = (round(v - wide / 2) for v in centre)
    high, broad = picture.shape[:2]
    x1, y1, x2, y2 = max(0, x), max(0, y), min(broad, x + wide), min(high, y + wide)
    inside = picture[y1:y2, x1:x2]
    if inside.shape[:2] != (wide, wide):
        mean = inside.reshape(-1, 3).mean(axis=0) if inside.size else picture[::16, ::16].reshape(-1, 3).mean(axis=0)
        square = np.full((wide, wide, 3), np.rint(mean), np.uint8)
        if inside.size:
            square[y1 - y : y2 - y, x1 - x : x2 - x] = inside
        inside = square
    how = cv2.INTER_AREA if wide > rules.search else cv2.INTER_LINEAR
    pixels = cv2.resize(np.ascontiguousarray(inside), (rules.search, rules.search), interpolation=how)
    return _Crop(np.asarray(pixels, np.uint8), (x + wide / 2, y + wide / 2), wide / rules.search)


def _part(found: FloatArray, row: int, column: int, rules: SiameseRules) -> FloatArray:
    return np.ascontiguousarray(found[:, row : row + rules.cells, column : column + rules.cells])


def _place(alike: npt.NDArray[np.float64], row: int, column: int, crop: _Crop, rules: SiameseRules) -> Point:
    """Where the best cell lies in the picture, finer than a cell by the parabola through its neighbours."""
    middle = (len(alike) - 1) / 2
    down = row - middle + _vertex(alike[:, column], row)
    right = column - middle + _vertex(alike[row], column)
    cell = rules.stride * crop.pixel
    return crop.centre[0] + right * cell, crop.centre[1] + down * cell


def _vertex(line: npt.NDArray[np.float64], place: int) -> float:
    if not 0 < place < len(line) - 1:
        return 0.0
    before, here, after = (float(v) for v in line[place - 1 : place + 2])
    bend = before - 2 * here + after
    return float(np.clip((before - after) / (2 * bend), -0.5, 0.5)) if bend < 0 else 0.0


def _updated(
    template: FloatArray, found: FloatArray, row: int, column: int, score: float, rules: SiameseRules
) -> FloatArray:
    """A little of how it looks now, where that is sure."""
    if score < rules.found_above or rules.update == 0:
        return template
    return ((1 - rules.update) * template + rules.update * _part(found, row, column, rules)).astype(np.float32)


def _expected(target: Target, elapsed: float) -> Point:
    """Where it is by its speed, no further than its own mean side from where it was."""
    x, y = target.velocity[0] * elapsed, target.velocity[1] * elapsed
    far, most = math.hypot(x, y), (target.size[0] + target.size[1]) / 2
    share = min(1.0, most / far) if far > 0 else 1.0
    return target.centre[0] + x * share, target.centre[1] + y * share


def _velocity(target: Target, centre: Point, elapsed: float) -> Point:
    """Of the last pictures, older ones forgotten with a time constant of 0.1 s."""
    if elapsed <= 0:
        return target.velocity
    new = 1 - math.exp(-elapsed / 0.1)
    now = ((centre[0] - target.centre[0]) / elapsed, (centre[1] - target.centre[1]) / elapsed)
    return target.velocity[0] + new * (now[0] - target.velocity[0]), target.velocity[1] + new * (
        now[1] - target.velocity[1]
    )


def _within(picture: PixelArray, width: float, height: float) -> Point:
    """No smaller than 4 pixels, no larger than the picture."""
    return float(np.clip(width, 4, picture.shape[1])), float(np.clip(height, 4, picture.shape[0]))


def _places(target: Target, picture: PixelArray, side: float, pts_ns: int, rules: SiameseRules) -> list[Point]:
    """Centres of search crops on a grid of half a crop, the nearest first, inside picture and radius."""
    radius = side * (1 + rules.spread * (pts_ns - target.seen_ns) / NS_PER_S)
    high, broad = picture.shape[:2]
    step = max(8.0, side / 2)
    lines = [
        [at + step * n for n in range(-math.ceil(at / step), math.ceil((most - at) / step) + 1)]
        for at, most in zip(target.centre, (broad, high), strict=True)
    ]
    grid = [(x, y) for y in lines[1] for x in lines[0] if 0 <= x < broad and 0 <= y < high]
    far = {place: math.dist(place, target.centre) for place in grid}
    near = sorted((place for place in grid if 0 < far[place] <= radius), key=lambda place: far[place])
    return near or [target.centre]
