"""Boxes, labels, trails and a banner on an RGB picture. Pure functions of their arguments, but for `Trails`.

How a box came to be is shown by its line: measured solid, interpolated dashed, extrapolated dotted. A track keeps its
colour for ever (a function of its id); without a track the class gives the colour.
"""

from __future__ import annotations

import colorsys
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from serving.frames import Origin
from serving.types import UNKNOWN, UNKNOWN_LABEL, Classification, Detections, FloatArray, PixelArray

Colour = tuple[int, int, int]
Point = tuple[int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_UNIT = 22.0  # height in pixels of a capital with its descender at scale 1
_BLACK: Colour = (0, 0, 0)
_WHITE: Colour = (255, 255, 255)
_GOLDEN = (math.sqrt(5) - 1) / 2
# Length of a dash and of the gap after it, in line widths.
_DASHES = {Origin.INTERPOLATED: (5, 4), Origin.EXTRAPOLATED: (1, 4)}


@dataclass(slots=True)
class Trails:
    """The last positions of each track (foot of its box), bounded in time and in number of tracks.

    `length_ns`: how far back a trail reaches; `max_tracks`: the oldest track is forgotten beyond it; `max_points`
    bounds each trail. Call `clear` where a new epoch begins.
    """

    length_ns: int = 2_000_000_000
    max_tracks: int = 256
    max_points: int = 128
    _points: dict[int, deque[tuple[int, float, float]]] = field(default_factory=dict)

    def update(self, pts_ns: int, boxes: Detections) -> None:
        """Take in the tracked boxes of one shown frame; untracked ones leave no trail."""
        ids = boxes.tracker_id if boxes.tracker_id is not None else ()
        for track, (x1, _, x2, y2) in zip(ids, boxes.xyxy, strict=False):
            if track < 0:
                continue  # no track yet: several objects share the number
            if not np.isfinite((x1, x2, y2)).all():
                continue
            trail = self._points.pop(int(track), None) or deque(maxlen=self.max_points)
            trail.append((pts_ns, float(x1 + x2) / 2, float(y2)))
            self._points[int(track)] = trail
        for track, trail in list(self._points.items()):
            while trail and trail[0][0] < pts_ns - self.length_ns:
                trail.popleft()
            if not trail or len(self._points) > self.max_tracks:
                del self._points[track]

    def clear(self) -> None:
        """Forget everything."""
        self._points.clear()

    def lines(self) -> dict[int, list[tuple[float, float]]]:
        """Track id -> points `(x, y)` in source pixels, oldest first."""
        return {track: [(x, y) for _, x, y in trail] for track, trail in self._points.items()}


def annotate(
    frame: PixelArray,
    boxes: Detections,
    *,
    labels: Sequence[str] = (),
    called: Sequence[str] = (),
    origin: PixelArray | None = None,
    trails: Trails | None = None,
    banner: str = "",
    names: bool = True,
) -> PixelArray:
    """A copy of `frame` (RGB uint8 `[h, w, 3]`) with its boxes, the best one on top.

    labels: names by class id; called: one a box, in place of its class where not empty; origin: uint8 `[n]`, values of
    `Origin`, measured where absent; banner: lines of text in a bar at the top; names: whether each box has its label.
    A box with a coordinate that is not finite has no place on a picture and is left out. Raises ValueError when
    `origin` has another length than `boxes`.
    """
    if origin is not None and len(origin) != len(boxes):
        raise ValueError(f"origin: expected {len(boxes)} values, one a box, got {len(origin)}")
    canvas = np.array(frame, copy=True, order="C")
    if trails is not None:
        draw_trails(canvas, trails)
    shown = np.flatnonzero(np.isfinite(boxes.xyxy).all(axis=1))[::-1].tolist()
    for index in shown:
        how = Origin.MEASURED if origin is None else Origin(int(origin[index]))
        draw_box(canvas, boxes.xyxy[index], colour_of_box(boxes, index), how)
    below = draw_banner(canvas, banner) if banner else 0
    for index in shown if names else ():
        x1, y1 = (round(float(v)) for v in boxes.xyxy[index][:2])
        text = label_of(boxes, index, labels, called[index] if called else "")
        draw_label(canvas, (x1, y1), text, colour_of_box(boxes, index), below)
    return canvas


def annotate_classes(frame: PixelArray, found: Classification, labels: Sequence[str], top: int = 5) -> PixelArray:
    """A copy of `frame` with the best classes and their scores in a bar at the top."""
    canvas = np.array(frame, copy=True, order="C")
    pairs = list(zip(found.class_id[:top], found.score[:top], strict=True))
    draw_banner(canvas, "\n".join(f"{score:.3f}  {name_of(int(c), labels)}" for c, score in pairs) or "no class")
    return canvas


def colour_of(number: int, of_track: bool = True) -> Colour:
    """A bright RGB colour for an id: neighbouring ids get hues far apart (golden ratio), in three shades."""
    hue = (number * _GOLDEN + (0.0 if of_track else 0.35)) % 1.0
    saturation, value = ((0.85, 1.0), (0.55, 1.0), (0.95, 0.78))[number % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def colour_of_box(boxes: Detections, index: int) -> Colour:
    """By track where there is one, else by class."""
    if boxes.tracker_id is not None and boxes.tracker_id[index] >= 0:
        return colour_of(int(boxes.tracker_id[index]))
    return colour_of(int(boxes.class_id[index]), of_track=False)


def name_of(class_id: int, labels: Sequence[str]) -> str:
    """The label of a class, or its number where the labels end."""
    if class_id == UNKNOWN:
        return UNKNOWN_LABEL
    return labels[class_id] if 0 <= class_id < len(labels) else f"class {class_id}"


def label_of(boxes: Detections, index: int, labels: Sequence[str], name: str = "") -> str:
    """`#track name confidence`."""
    tracked = boxes.tracker_id is not None and boxes.tracker_id[index] >= 0
    track = f"#{boxes.tracker_id[index]} " if tracked and boxes.tracker_id is not None else ""
    return f"{track}{name or name_of(int(boxes.class_id[index]), labels)} {boxes.confidence[index]:.2f}"


def line_width(canvas: PixelArray) -> int:
    """Width of a line in pixels: 1 on a thumbnail, 2 at 768 x 576, 12 on 12 megapixels."""
    return max(1, round(math.sqrt(canvas.shape[0] * canvas.shape[1]) / 300))


def text_height(canvas: PixelArray) -> float:
    """Height of a line of text in pixels: about a thirtieth of the picture, never under 9 so that it stays readable."""
    return min(96.0, max(9.0, math.sqrt(canvas.shape[0] * canvas.shape[1]) / 36))


def draw_box(canvas: PixelArray, xyxy: Sequence[float] | FloatArray, colour: Colour, how: Origin) -> None:
    """One box, in place, by the line of its origin. Corners outside the picture are moved to its edge."""
    height, width = canvas.shape[:2]
    limits = (width - 1, height - 1, width - 1, height - 1)
    x1, y1, x2, y2 = (min(max(round(float(v)), 0), top) for v, top in zip(xyxy, limits, strict=True))
    thick = line_width(canvas)
    if how is Origin.MEASURED:
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, thick)
        return
    dash, gap = (n * thick for n in _DASHES[how])
    for start, end in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
        _dashed(canvas, start, end, colour, thick, (dash, gap))


def _dashed(canvas: PixelArray, start: Point, end: Point, colour: Colour, thick: int, rhythm: tuple[int, int]) -> None:
    length = math.dist(start, end)
    if length < 1:
        return
    across, down = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    at, (dash, gap) = 0.0, rhythm
    while at < length:
        stop = min(at + max(dash - 1, 0), length)
        first = (round(start[0] + across * at), round(start[1] + down * at))
        cv2.line(canvas, first, (round(start[0] + across * stop), round(start[1] + down * stop)), colour, thick)
        at += dash + gap


def draw_label(canvas: PixelArray, corner: Point, text: str, colour: Colour, below: int = 0) -> None:
    """Text on a plate above `corner` (under it at the top edge), in place, moved to lie inside the picture.

    `below`: rows at the top to keep free (a banner). Text wider than the picture loses words in front: the confidence
    stays. On a picture too small for text nothing is written.
    """
    height, width = canvas.shape[:2]
    scale = text_height(canvas) / _FONT_UNIT
    text = _fitted(text, width - 4, scale)
    (wide, high), base = cv2.getTextSize(text or "0", _FONT, scale, 1)
    plate = high + base + 4
    if not text or plate * 5 > height:
        return
    left = min(max(corner[0], 0), max(width - wide - 4, 0))
    top = corner[1] - plate if corner[1] >= plate + below else corner[1]
    top = min(max(top, below), max(height - plate, 0))
    cv2.rectangle(canvas, (left, top), (left + wide + 3, top + plate - 1), colour, cv2.FILLED)
    ink = _BLACK if 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140 else _WHITE
    cv2.putText(canvas, text, (left + 2, top + high + 2), _FONT, scale, ink, 1, cv2.LINE_AA)


def draw_trails(canvas: PixelArray, trails: Trails) -> None:
    """Each trail as a line in its track's colour, thicker towards its head, in place."""
    thick = line_width(canvas)
    for track, points in trails.lines().items():
        for index in range(1, len(points)):
            width = max(1, round(thick * (0.5 + index / len(points))))
            start, end = ((round(x), round(y)) for x, y in points[index - 1 : index + 1])
            cv2.line(canvas, start, end, colour_of(track), width, cv2.LINE_AA)


def draw_banner(canvas: PixelArray, text: str) -> int:
    """White text in a darkened bar over the top of the picture, in place; the height of the bar in pixels.

    Lines are wrapped between words; what does not fit into half of the picture is left out.
    """
    height, width = canvas.shape[:2]
    scale = text_height(canvas) / _FONT_UNIT
    (_, high), base = cv2.getTextSize("Ag|", _FONT, scale, 1)
    step = high + base + 3
    lines = [part for line in text.splitlines() for part in _wrapped(line, width - 8, scale)]
    lines = lines[: height // 2 // step]
    if not lines:
        return 0
    bar = canvas[: step * len(lines) + 3]
    np.copyto(bar, (bar.astype(np.uint16) * 3 // 10).astype(np.uint8))
    for row, line in enumerate(lines):
        cv2.putText(canvas, line, (4, 3 + high + row * step), _FONT, scale, _WHITE, 1, cv2.LINE_AA)
    return len(bar)


def _wide(text: str, scale: float) -> int:
    return int(cv2.getTextSize(text, _FONT, scale, 1)[0][0])


def _wrapped(text: str, width: int, scale: float) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if not lines[-1] or _wide(longer, scale) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _fitted(text: str, width: int, scale: float) -> str:
    """`text` without the words in front that make it wider than `width` pixels; empty where not even the last fits."""
    while text and _wide(text, scale) > width:
        text = text.partition(" ")[2]
    return text
