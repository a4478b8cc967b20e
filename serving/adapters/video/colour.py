"""Decoded pictures as RGB, one at a time.

A libav picture may be asked for its RGB by the thread that analyses it and by the one that draws on it, at once. PyAV
keeps a scaler in each picture and writes to the picture while it converts, outside the interpreter's lock: two
conversions of one picture end the process or hang in the scaler's threads, of which each kept picture has one for every
core. So a reader has one converter, with a lock, and its scaler has no threads. It is kept from picture to picture, as
making one costs as much as converting a picture of 640x480.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from av.video.reformatter import VideoReformatter

from serving.types import PixelArray


class RgbConverter:
    """Call it with an `av.VideoFrame`, from any thread: RGB uint8 [h, w, 3], turned as its display matrix says."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scaler = VideoReformatter()

    def __call__(self, picture: Any) -> PixelArray:
        with self._lock:
            array: Any = self._scaler.reformat(picture, format="rgb24", threads=1).to_ndarray()
        turns = round(picture.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(array, turns) if turns else array, dtype=np.uint8)


def size_of(picture: Any) -> tuple[int, int]:
    """Width and height as shown, after the display matrix."""
    turned = picture.rotation % 180 == 90
    return (picture.height, picture.width) if turned else (picture.width, picture.height)
