"""Pictures between the log and a model: what came as JPEG is checked by decoding it, and sent on unchanged."""

from __future__ import annotations

from serving.frames import PictureCodec
from serving.types import PixelArray


class LogTransport:
    """`serving.frames.PictureCodec` of one worker thread. A picture that was only looked at is not encoded again."""

    def __init__(self, codec: PictureCodec) -> None:
        self._codec = codec
        self._data = b""
        self._rgb: PixelArray | None = None

    def decode(self, data: bytes) -> PixelArray:
        """The picture; ValueError where it is none."""
        self._data, self._rgb = data, self._codec.decode(data)
        return self._rgb

    def encode(self, rgb: PixelArray) -> bytes:
        """The bytes it came as, unless it is another picture (a mask was laid over it)."""
        return self._data if rgb is self._rgb else self._codec.encode(rgb)
