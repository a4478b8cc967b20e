"""The part of a picture that is analysed."""

from __future__ import annotations

from typing import Any

import numpy as np

from serving.errors import ParameterInvalid
from serving.types import ImageSize, PixelArray


def parse_roi(text: Any, image: ImageSize) -> tuple[int, int, int, int] | None:
    """`x1,y1,x2,y2` in source pixels, inside the picture; ParameterInvalid otherwise, None where absent."""
    if text in (None, ""):
        return None
    try:
        x1, y1, x2, y2 = (int(part) for part in str(text).split(","))
    except ValueError as error:
        raise ParameterInvalid(f"roi: expected x1,y1,x2,y2 as integers, got {str(text)[:60]!r}") from error
    if not (0 <= x1 < x2 <= image.width and 0 <= y1 < y2 <= image.height):
        raise ParameterInvalid(f"roi: expected a box inside {image.width}x{image.height}, got {x1},{y1},{x2},{y2}")
    return x1, y1, x2, y2


def crop(frame: PixelArray, roi: tuple[int, int, int, int] | None) -> PixelArray:
    """The part of the picture that is analysed, contiguous."""
    if roi is None:
        return frame
    x1, y1, x2, y2 = roi
    return np.ascontiguousarray(frame[y1:y2, x1:x2])
