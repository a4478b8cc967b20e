"""The small map: the pitch from above in a corner of the picture, with what the camera sees and where the players
are."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from serving.draw import Colour, line_width
from serving.pitch.model import Matrix, Pitch, Points, project, to_pixels
from serving.types import PixelArray

SHARE = 0.30  # of the picture's width
_GRASS, _PAINT, _VIEW, _UNKNOWN = (38, 92, 44), (235, 240, 235), (255, 221, 70), (150, 150, 150)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_map(
    rgb: PixelArray, pitch: Pitch, matrix: Matrix | None, places: Points | None = None,
    colours: Sequence[Colour] = (), held: bool = False,
) -> None:  # fmt: skip
    """In place, in the lower right corner. places: metres [n, 2], nan is left out; colours: one each. An unknown map is
    grey and says so; a held one says so."""
    height, width = rgb.shape[:2]
    unit = min(SHARE * width, 0.4 * height * pitch.length / pitch.width) / (pitch.length + 8)
    wide, high = round(unit * (pitch.length + 8)), round(unit * (pitch.width + 8))
    if wide < 40 or high < 26:
        return
    plate = np.full((high, wide, 3), _GRASS if matrix is not None else (60, 60, 60), np.uint8)
    to_plate = np.array([[unit, 0, 4 * unit], [0, unit, 4 * unit], [0, 0, 1]])
    if matrix is not None:
        _draw_view(plate, to_plate, matrix, (width, height), pitch)
    _draw_lines(plate, to_plate, pitch, _PAINT if matrix is not None else _UNKNOWN, 1)
    if matrix is not None and places is not None:
        _draw_places(plate, to_plate, places, colours)
    if matrix is None or held:
        scale = max(0.3, wide / 420)
        cv2.putText(plate, "map unknown" if matrix is None else "held", (round(3 * unit), round(high - 1.5 * unit)),
        _FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)  # fmt: skip
    margin = max(2, width // 100)
    corner = rgb[height - high - margin : height - margin, width - wide - margin : width - margin]
    np.copyto(corner, (plate.astype(np.uint16) * 85 // 100 + corner.astype(np.uint16) * 15 // 100).astype(np.uint8))


def draw_markings(rgb: PixelArray, matrix: Matrix, pitch: Pitch) -> None:
    """The markings as the map has them, over the picture, in place."""
    _draw_lines(rgb, to_pixels(matrix), pitch, (255, 90, 60), max(1, line_width(rgb) // 2))


def _draw_lines(canvas: PixelArray, matrix: Matrix, pitch: Pitch, colour: Colour, thick: int) -> None:
    points, _, groups = pitch.samples
    ends = np.concatenate([pitch.segments[:, :2], pitch.segments[:, 2:]])
    straight = len(pitch.segments)
    for group in range(int(groups.max()) + 1):
        line = points[groups == group]
        if group < straight:
            line = np.concatenate([ends[group : group + 1], line, ends[group + straight : group + straight + 1]])
        elif group == straight:
            line = np.concatenate([line, line[:1]])
        at = project(matrix, line)
        for part in _pieces(at):
            cv2.polylines(canvas, [np.round(part * 16).astype(np.int32)], False, colour, thick, cv2.LINE_AA, 4)


def _pieces(at: Points) -> list[Points]:
    """The runs of points that can be drawn."""
    fine = np.isfinite(at).all(axis=1) & (np.abs(np.nan_to_num(at)) < 1e5).all(axis=1)
    runs = np.split(np.arange(len(at)), np.flatnonzero(np.diff(fine.astype(np.int8))) + 1)
    return [at[run] for run in runs if len(run) > 1 and fine[run[0]]]


def _draw_view(plate: PixelArray, to_plate: Matrix, matrix: Matrix, size: tuple[int, int], pitch: Pitch) -> None:
    """The part of the ground that is in the picture, lighter."""
    width, height = size
    middle = np.array([pitch.length, pitch.width]) / 2
    grid = np.stack(np.meshgrid(np.arange(plate.shape[1]), np.arange(plate.shape[0])), axis=-1).reshape(-1, 2)
    metres = project(np.linalg.inv(to_plate), grid.astype(np.float64))
    at = project(to_pixels(matrix), metres)
    inside = (at >= 0).all(axis=1) & (at[:, 0] < width) & (at[:, 1] < height)
    inside &= (np.abs(metres - middle) <= middle + 4).all(axis=1)
    seen = inside.reshape(plate.shape[:2])
    plate[seen] = np.minimum(plate[seen].astype(np.uint16) * 3 // 2, 255).astype(np.uint8)
    edges, _ = cv2.findContours(seen.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(plate, edges, -1, _VIEW, 1)


def _draw_places(plate: PixelArray, to_plate: Matrix, places: Points, colours: Sequence[Colour]) -> None:
    size = max(2, plate.shape[1] // 90)
    at = project(to_plate, places)
    for number, (x, y) in enumerate(at):
        if np.isfinite((x, y)).all() and 0 <= x < plate.shape[1] and 0 <= y < plate.shape[0]:
            cv2.circle(plate, (round(x), round(y)), size + 1, (0, 0, 0), cv2.FILLED, cv2.LINE_AA)
            colour = colours[number] if number < len(colours) else (255, 255, 255)
            cv2.circle(plate, (round(x), round(y)), size, colour, cv2.FILLED, cv2.LINE_AA)
