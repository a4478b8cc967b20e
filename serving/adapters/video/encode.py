"""What every encoded output shares: exact output ticks, one picture size, and the encoder's settings."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np

from serving.media import OutputStream, nearest_tick
from serving.types import PixelArray


class OutputTicks:
    """Output PTS in ticks of the output's time base: the source's own while there is one epoch.

    moved: frames whose tick had to be moved on by one because two fell on the same tick.
    """

    __slots__ = ("_last", "_origin", "_time_base", "moved")

    def __init__(self, stream: OutputStream) -> None:
        self._time_base = stream.time_base
        self._origin = max(0, stream.origin)  # MP4 does not show what lies before zero
        self._last: int | None = None
        self.moved = 0

    def of(self, out_pts_ns: int) -> int:
        """Strictly rising; exact for time bases of a nanosecond and coarser."""
        tick = self._origin + nearest_tick(out_pts_ns, self._time_base)
        if self._last is not None and tick <= self._last:
            tick = self._last + 1
            self.moved += 1
        self._last = tick
        return tick


def add_video(container: Any, stream: OutputStream, options: dict[str, str]) -> Any:
    """An H.264 stream of this size and time base; odd sides are padded by a pixel, which 4:2:0 needs."""
    encoder = container.add_stream(
        "libx264",
        rate=stream.average_rate or Fraction(25),
        width=even(stream.width),
        height=even(stream.height),
        pix_fmt="yuv420p",
        time_base=stream.time_base,
        options=options,
    )
    encoder.codec_context.thread_count = 1
    if stream.sample_aspect != 1:
        encoder.codec_context.sample_aspect_ratio = stream.sample_aspect
    return encoder


def even(side: int) -> int:
    """The next even number."""
    return side + side % 2


def picture_for(rgb: PixelArray, stream: OutputStream, tick: int) -> Any:
    """An encoder's picture. Another size than the stream's (a new epoch may have one) is scaled to fit, on black."""
    height, width = rgb.shape[:2]
    if (width, height) != (stream.width, stream.height):
        rgb = _fitted(rgb, stream.width, stream.height)
    if stream.width % 2 or stream.height % 2:
        rgb = np.pad(rgb, ((0, stream.height % 2), (0, stream.width % 2), (0, 0)), mode="edge")
    picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
    picture.pts, picture.time_base = tick, stream.time_base
    return picture


def _fitted(rgb: PixelArray, width: int, height: int) -> PixelArray:
    scale = min(width / rgb.shape[1], height / rgb.shape[0])
    size = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
    out = np.zeros((height, width, 3), np.uint8)
    x, y = (width - size[0]) // 2, (height - size[1]) // 2
    out[y : y + size[1], x : x + size[0]] = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return out
