"""Numbers written into pictures as blocks, black or white, that survive encoding, and the scene around them.

A sync picture (320x240) carries, in 10-pixel blocks: at the top its own number; lower down, one strip a pipeline, what
was drawn on it: the number of the picture the box was computed from, how the box came to be, and where it is. A white
square moves along a known path in between. Both are read back from pixels alone, so a mixed video can be judged by a
stranger.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.frames import AlignedFrame, Origin
from serving.types import FloatArray, PixelArray

WIDTH, HEIGHT, BLOCK = 320, 240, 10
COLUMNS = WIDTH // BLOCK
SIDE = 24.0
MARKER = 0b10110010
GREY, WHITE = 88, 235
FIELD = (40, 140)  # rows in which the square moves: everything brighter than grey there is the square
STRIP_ROWS = 3
STRIPS_AT = (150, 200)  # first row of each pipeline's strip
SUBPIXEL = 32
_OWN_BITS = (("marker", 8), ("clip", 8), ("index", 16))
_DRAWN_BITS = (("marker", 8), ("present", 1), ("origin", 2), ("track", 5), ("index", 16), ("cx", 16), ("cy", 16))


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a strip says was drawn. index: the picture the box was computed from (of filled ones: the last known)."""

    origin: Origin
    track: int
    index: int
    cx: float
    cy: float


Path = Callable[[float], tuple[float, float]]


def linear(seconds: float) -> tuple[float, float]:
    """From side to side at 60 px/s."""
    return _bounce(30 + 60 * seconds, 20, WIDTH - 20), 90.0


def turning(seconds: float) -> tuple[float, float]:
    """A diamond, with a sharp turn each 2 s."""
    return _bounce(60 + 60 * seconds, 60, 180), _bounce(90 + 18 * seconds, 60, 122)


def stopping(seconds: float) -> tuple[float, float]:
    """Moves for a second, stands for a second."""
    whole, part = divmod(seconds, 2.0)
    return _bounce(30 + 60 * (whole + min(part, 1.0)), 20, WIDTH - 20), 110.0


PATHS: Mapping[str, Path] = {"linear": linear, "turn": turning, "stop": stopping}
SPEED = 60.0  # px/s of every path while it moves


def picture(index: int, clip: int, centre: tuple[float, float] | None) -> PixelArray:
    """Picture `index` of clip `clip` with the square's centre there, None: no square; RGB uint8 [240, 320, 3]."""
    grey = np.full((HEIGHT, WIDTH), GREY, np.uint8)
    if centre is not None:
        _paint_square(grey, centre)
    values = {"marker": MARKER, "clip": clip % 256, "index": index}
    _paint(grey, 0, _with_crc(values, _OWN_BITS))
    return np.repeat(grey[:, :, None], 3, axis=2)


def draw_strips(rgb: PixelArray, shown: AlignedFrame, pipelines: Sequence[str]) -> PixelArray:
    """A copy of the picture with each pipeline's strip: the best box of its overlay, or none."""
    grey = rgb[:, :, 0].copy()
    for overlay in shown.overlays:
        top = STRIPS_AT[pipelines.index(overlay.pipeline)]
        boxes = overlay.boxes
        values = {"marker": MARKER, "present": 0, "origin": 0, "track": 0, "index": 0, "cx": 0, "cy": 0}
        if len(boxes):
            x1, y1, x2, y2 = (float(v) for v in boxes.xyxy[0])
            track = int(boxes.tracker_id[0]) if boxes.tracker_id is not None else 0
            place = {"cx": round((x1 + x2) / 2 * SUBPIXEL), "cy": round((y1 + y2) / 2 * SUBPIXEL)}
            values |= {"present": 1, "origin": int(overlay.origin[0]), "track": track % 32}
            values |= {"index": int(boxes.class_id[0]) % 65536, **{k: v % 65536 for k, v in place.items()}}
        _paint(grey, top, _with_crc(values, _DRAWN_BITS))
    return np.repeat(grey[:, :, None], 3, axis=2)


def read_own(rgb: PixelArray) -> tuple[int, int] | None:
    """(clip, index) of a picture; None where its code is not whole."""
    values = _read(rgb, 0, _OWN_BITS)
    return None if values is None else (values["clip"], values["index"])


def read_drawn(rgb: PixelArray, strip: int) -> Drawn | None:
    """What strip `strip` says; None where nothing was drawn. ValueError where the strip cannot be read."""
    values = _read(rgb, STRIPS_AT[strip], _DRAWN_BITS)
    if values is None:
        raise ValueError(f"strip {strip}: expected a readable code, got none; the picture was scaled or spoilt")
    if not values["present"]:
        return None
    return Drawn(
        Origin(values["origin"]), values["track"], values["index"], values["cx"] / SUBPIXEL, values["cy"] / SUBPIXEL
    )


def find_square(rgb: PixelArray) -> FloatArray | None:
    """The square's box float32 [4] by its centre of brightness; None where there is none."""
    top, bottom = FIELD
    light = np.clip((rgb[top:bottom, :, 0].astype(np.float64) - GREY) / (WHITE - GREY) - 0.25, 0, None)
    total = float(light.sum())
    if total < 0.25 * SIDE * SIDE:
        return None
    cx = float((light.sum(0) * (np.arange(WIDTH) + 0.5)).sum()) / total
    cy = float((light.sum(1) * (np.arange(top, bottom) + 0.5)).sum()) / total
    return np.array([cx - SIDE / 2, cy - SIDE / 2, cx + SIDE / 2, cy + SIDE / 2], np.float32)


def _bounce(value: float, low: float, high: float) -> float:
    span = high - low
    phase = (value - low) % (2 * span)
    return low + (phase if phase < span else 2 * span - phase)


def _paint_square(grey: PixelArray, centre: tuple[float, float]) -> None:
    """With soft edges, so that parts of a pixel show."""
    weight = np.outer(_cover(centre[1], HEIGHT), _cover(centre[0], WIDTH))
    grey[:] = np.rint(grey + weight * (WHITE - grey.astype(np.float64))).astype(np.uint8)


def _cover(centre: float, size: int) -> npt.NDArray[np.float64]:
    edges = np.arange(size)
    low, high = centre - SIDE / 2, centre + SIDE / 2
    return np.asarray(np.clip(np.minimum(edges + 1, high) - np.maximum(edges, low), 0, 1), np.float64)


def _with_crc(values: Mapping[str, int], layout: Sequence[tuple[str, int]]) -> list[int]:
    bits = [values[name] >> shift & 1 for name, size in layout for shift in reversed(range(size))]
    crc = _crc(bits)
    return bits + [crc >> shift & 1 for shift in reversed(range(16))]


def _crc(bits: Sequence[int]) -> int:
    return zlib.crc32(bytes(bits)) & 0xFFFF


def _paint(grey: PixelArray, top: int, bits: Sequence[int]) -> None:
    rows = math.ceil(len(bits) / COLUMNS)
    padded = [*bits, *([0] * (rows * COLUMNS - len(bits)))]
    cells = np.where(np.array(padded, bool).reshape(rows, COLUMNS), WHITE, 16).astype(np.uint8)
    grey[top : top + rows * BLOCK] = np.kron(cells, np.ones((BLOCK, BLOCK), np.uint8))


def _read(rgb: PixelArray, top: int, layout: Sequence[tuple[str, int]]) -> dict[str, int] | None:
    count = sum(size for _, size in layout) + 16
    rows = math.ceil(count / COLUMNS)
    area = rgb[top : top + rows * BLOCK, :WIDTH, 0].astype(np.float64)
    cells = area.reshape(rows, BLOCK, COLUMNS, BLOCK)[:, 3:7, :, 3:7].mean(axis=(1, 3))
    bits = [int(value > 125) for value in cells.ravel()[:count]]
    if _crc(bits[:-16]) != int("".join(map(str, bits[-16:])), 2):
        return None
    values, at = {}, 0
    for name, size in layout:
        values[name] = int("".join(map(str, bits[at : at + size])), 2)
        at += size
    return values if values["marker"] == MARKER else None
