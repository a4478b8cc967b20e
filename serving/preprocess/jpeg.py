"""Pictures as JPEG, as the log carries them (`serving.frames.PictureCodec`)."""

from __future__ import annotations

import numpy as np
import simplejpeg

from serving.config import Settings
from serving.types import PixelArray


class JpegCodec:
    """quality 1 to 100; 4:2:0, or 4:4:4 where colour is not to be halved. RGB uint8 [h, w, 3] in and out."""

    def __init__(self, quality: int = 90, subsampling: str = "420") -> None:
        if not 1 <= quality <= 100:
            raise ValueError(f"JpegCodec.quality: expected 1 to 100, got {quality}")
        if subsampling not in ("420", "444"):
            raise ValueError(f"JpegCodec.subsampling: expected 420 or 444, got {subsampling!r}")
        self._quality, self._subsampling = quality, subsampling

    def __str__(self) -> str:
        return f"quality {self._quality}, {':'.join(self._subsampling)}"

    def encode(self, rgb: PixelArray) -> bytes:
        """The picture as JPEG."""
        data = simplejpeg.encode_jpeg(
            np.ascontiguousarray(rgb), quality=self._quality, colorspace="RGB", colorsubsampling=self._subsampling
        )
        return bytes(data)

    def decode(self, data: bytes) -> PixelArray:
        """The picture of a JPEG; ValueError where it is none."""
        return np.asarray(simplejpeg.decode_jpeg(data, colorspace="RGB"), np.uint8)


def frame_codec(settings: Settings) -> JpegCodec:
    """How pictures go onto the log, by `frame_codec` and `frame_quality`."""
    return JpegCodec(settings.frame_quality, "444" if settings.frame_codec == "jpeg444" else "420")
