"""Decoded pictures as RGB, one at a time.

A libav picture may be asked for its RGB by the thread that analyses it and by the one that draws on it, at once. PyAV
keeps a scaler in each picture and writes to the picture while it converts, outside the interpreter's lock: two
conversions of one picture end the process or hang in the scaler's threads, of which each kept picture has one for every
core. So a reader has one converter, with a lock, and its scaler has no threads. It is kept from picture to picture, as
making one costs as much as converting a picture of 640x480.
"""

from __future__ import annotations

import struct
import threading
from typing import Any, NamedTuple

import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter

from serving.types import PixelArray


class RgbConverter:
    """Call it with an `av.VideoFrame`, from any thread: RGB uint8 [h, w, 3], turned and mirrored as it is shown."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scaler = VideoReformatter()

    def __call__(self, picture: Any) -> PixelArray:
        with self._lock:
            turn = _turn_of(picture)
            array: Any = self._scaler.reformat(picture, format="rgb24", threads=1).to_ndarray()
        return np.ascontiguousarray(turn.applied(array), dtype=np.uint8)


def is_turned(picture: Any) -> bool:
    """The display matrix makes rows of its columns."""
    return _quarters(picture) % 2 == 1


def size_of(picture: Any) -> tuple[int, int]:
    """Width and height as shown, after the display matrix."""
    return (picture.height, picture.width) if is_turned(picture) else (picture.width, picture.height)


class _Turn(NamedTuple):
    """Rows and columns change places, then left and right, then top and bottom."""

    transposed: bool = False
    left_right: bool = False
    upside_down: bool = False

    def applied(self, array: PixelArray) -> PixelArray:
        shown = array.swapaxes(0, 1) if self.transposed else array
        return shown[:: -1 if self.upside_down else 1, :: -1 if self.left_right else 1]


_ROTATED = (_Turn(), _Turn(True, False, True), _Turn(False, True, True), _Turn(True, True, False))  # by _quarters
_SideData: Any = SideDataContainer  # made anew: the one that a picture keeps would keep the picture, too


def _quarters(picture: Any) -> int:
    """Quarter turns counterclockwise; those of a mirrored picture tell only whether its sides change places."""
    quarters: int = round(picture.rotation / 90) % 4
    return quarters


def _turn_of(picture: Any) -> _Turn:
    """By the display matrix a b u / c d v / x y w (int32), which takes p, q to ap + cq + x, bp + dq + y."""
    quarters = _quarters(picture)
    try:
        matrix = _SideData(picture).get("DISPLAYMATRIX")
    except ValueError:  # the picture carries something that PyAV has no name for (EXIF)
        return _ROTATED[quarters]
    if matrix is None:
        return _Turn()
    a, b, _, c, d = struct.unpack_from("=5i", bytes(matrix))
    return _Turn(True, c < 0, b < 0) if quarters % 2 else _Turn(False, a < 0, d < 0)
