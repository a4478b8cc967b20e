"""Tiles of a large picture for a detector: asked one by one and as a whole, answered as one.

Tiles of one size lie at even steps, so that neighbours share at least `overlap` of their side: an object no larger than
that lies whole in one of them, a larger one in the whole picture. What several tiles saw of one object becomes one box.
A picture that is no larger than a tile is asked once, as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from serving.types import Array, Detections, PixelArray

BORDER = 2.0  # source pixels: a box this near to where its tile was cut may be part of a larger one


class TileOptions(BaseModel):
    """width, height: source pixels of a tile; overlap: part of its side."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    width: int = Field(ge=32, le=16384)
    height: int = Field(ge=32, le=16384)
    overlap: float = Field(0.2, ge=0, le=0.75)
    same_object: float = Field(0.5, gt=0, le=1, description="IoU, or part of a cut box, from which two are one object")
    most: int = Field(64, ge=1, le=1024, description="tiles of one picture; a larger picture gets larger tiles")


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a picture, the place of its corner, and which of its sides (x1, y1, x2, y2) are cuts."""

    pixels: PixelArray
    offset: tuple[int, int] = (0, 0)
    cuts: tuple[bool, bool, bool, bool] = (False, False, False, False)

    def cut(self, xyxy: Array) -> npt.NDArray[np.bool_]:
        """Whether boxes [n, 4] in the tile's own pixels reach a cut: [n]."""
        height, width = self.pixels.shape[:2]
        near = np.abs(xyxy - np.array([0, 0, width, height], np.float32)) <= BORDER
        return np.asarray((near & np.array(self.cuts)).any(axis=1))


def tiles_of(picture: PixelArray, options: TileOptions) -> list[Tile]:
    """The whole picture, then its tiles row by row; the picture alone where it fits into one. uint8 [h, w, 3]."""
    height, width = picture.shape[:2]
    across, down = min(options.width, width), min(options.height, height)
    while (
        len(xs := _starts(width, across, options.overlap)) * len(ys := _starts(height, down, options.overlap))
        > options.most
    ):
        across, down = min(int(across * 1.1) + 1, width), min(int(down * 1.1) + 1, height)
    if len(xs) * len(ys) == 1:
        return [Tile(picture)]
    cut = [
        Tile(picture[y : y + down, x : x + across], (x, y), (x > 0, y > 0, x + across < width, y + down < height))
        for y in ys
        for x in xs
    ]
    return [Tile(picture), *(replace(tile, pixels=np.ascontiguousarray(tile.pixels)) for tile in cut)]


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    """First pixels of tiles that cover `side`, at even steps of at most (1 - overlap) tiles."""
    if tile >= side:
        return [0]
    count = int(np.ceil((side - tile) / max(1.0, tile * (1 - overlap)))) + 1
    return [int(place) for place in np.rint(np.linspace(0, side - tile, count))]


def joined(tiles: Sequence[Tile], parts: Sequence[Detections], options: TileOptions, limit: int | None) -> Detections:
    """One box an object, best first. parts: of each tile, in its own pixels; the answer is in the whole picture's.

    Boxes that no cut touches come first. A box goes where a better one of another tile and of its class overlaps it by
    an IoU over `same_object`, or, if a cut touches it, covers more than that part of it. Boxes of one tile are left as
    the model gave them.
    """
    if len(tiles) == 1:
        return parts[0]
    boxes = _together([_moved(part, tile.offset) for tile, part in zip(tiles, parts, strict=True)])
    tile_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    cut = np.concatenate([tile.cut(part.xyxy) for tile, part in zip(tiles, parts, strict=True)])
    left, kept = np.lexsort((-boxes.confidence, cut)), []
    while len(left):
        best, rest = int(left[0]), left[1:]
        iou, covered = _overlaps(boxes.xyxy, best, rest)
        same = (iou > options.same_object) | (cut[rest] & (covered > options.same_object))
        same &= (boxes.class_id[rest] == boxes.class_id[best]) & (tile_of[rest] != tile_of[best])
        kept.append(best)
        left = rest[~same]
    kept.sort(key=lambda place: (-boxes.confidence[place], place))
    return _each(boxes, lambda column: column[kept[:limit]])


def _moved(boxes: Detections, offset: tuple[int, int]) -> Detections:
    """Boxes, and landmarks where there are some, from a tile's pixels to the picture's."""
    moved: dict[str, Any] = {"xyxy": (boxes.xyxy + np.array([*offset, *offset], np.float32)).astype(np.float32)}
    if (marks := getattr(boxes, "landmarks", None)) is not None:
        moved["landmarks"] = (marks + np.array(offset, np.float32)).astype(np.float32)
    return replace(boxes, **moved)


def _together(parts: Sequence[Detections]) -> Detections:
    columns: dict[str, Any] = {}
    for field in fields(parts[0]):
        values = [getattr(part, field.name) for part in parts]
        if all(isinstance(value, np.ndarray) for value in values):
            columns[field.name] = np.concatenate(values)
    return replace(parts[0], **columns)


def _each(boxes: Detections, change: Any) -> Detections:
    columns = {f.name: getattr(boxes, f.name) for f in fields(boxes)}
    return replace(boxes, **{n: change(c) for n, c in columns.items() if isinstance(c, np.ndarray)})


def _overlaps(xyxy: Array, one: int, others: Array) -> tuple[Array, Array]:
    """IoU of one box and others, and the part of each other that it covers."""
    low, high = np.maximum(xyxy[one, :2], xyxy[others, :2]), np.minimum(xyxy[one, 2:], xyxy[others, 2:])
    inter = np.prod(np.clip(high - low, 0, None), axis=1)
    area, areas = np.prod(xyxy[one, 2:] - xyxy[one, :2]), np.prod(xyxy[others, 2:] - xyxy[others, :2], axis=1)
    return inter / np.maximum(area + areas - inter, 1e-9), inter / np.maximum(areas, 1e-9)
