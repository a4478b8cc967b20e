"""Pictures as JPEG, as the log carries them (`serving.frames.PictureCodec`)."""

from __future__ import annotations

import numpy as np
import simplejpeg

from serving.types import PixelArray


class JpegCodec:
    """quality 1 to 100; 4:2:0. RGB uint8 [h, w, 3] in and out."""

    def __init__(self, quality: int = 90) -> None:
        if not 1 <= quality <= 100:
            raise ValueError(f"JpegCodec.quality: expected 1 to 100, got {quality}")
        self._quality = quality

    def encode(self, rgb: PixelArray) -> bytes:
        """The picture as JPEG."""
        data = simplejpeg.encode_jpeg(
            np.ascontiguousarray(rgb), quality=self._quality, colorspace="RGB", colorsubsampling="420"
        )
        return bytes(data)

    def decode(self, data: bytes) -> PixelArray:
        """The picture of a JPEG; ValueError where it is none."""
        return np.asarray(simplejpeg.decode_jpeg(data, colorspace="RGB"), np.uint8)
