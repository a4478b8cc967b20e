"""WebP header: the RIFF chunks of a simple or extended file.

Source: RFC 9649 (WebP container and lossless bitstream), RFC 6386 section 9.1 (VP8 key frame header).
"""

from __future__ import annotations

import struct

from serving.errors import ImageInvalid, ImageUnsupported
from serving.preprocess.exif import orientation_of
from serving.preprocess.header import ImageHeader

_MAX_CHUNKS = 1024
_ANIMATION, _ALPHA = 0x02, 0x10


def read(data: bytes) -> ImageHeader:
    """Header of a WebP file. Raises ImageInvalid, ImageUnsupported (animation)."""
    (size,) = struct.unpack_from("<I", data, 4)
    end = size + 8
    if end > len(data):
        raise ImageInvalid(f"the WebP is truncated: {end} bytes promised, {len(data)} there")
    picture: tuple[int, int, bool] | None = None
    canvas: tuple[int, int] | None = None
    orientation, position = 1, 12
    for _ in range(_MAX_CHUNKS):
        if position + 8 > end:
            break
        kind, length = struct.unpack_from("<4sI", data, position)
        body = position + 8
        if body + length > end:
            raise ImageInvalid("the WebP is truncated inside a chunk")
        if kind == b"VP8X":
            canvas = _extended(data, body)
        elif kind in (b"ANIM", b"ANMF"):
            raise ImageUnsupported("animated WebP is not served", hint="send a single picture")
        elif kind == b"VP8 " and picture is None:
            picture = (*_lossy(data, body, length), False)
        elif kind == b"VP8L" and picture is None:
            picture = _lossless(data, body, length)
        elif kind == b"EXIF":
            orientation = orientation_of(data[body : body + length].removeprefix(b"Exif\x00\x00"))
        position = body + length + (length & 1)
    if picture is None:
        raise ImageInvalid("the WebP holds no picture")
    width, height, alpha = picture
    if canvas is not None and canvas != (width, height):
        raise ImageInvalid(f"the WebP declares a canvas of {canvas[0]} x {canvas[1]} and a picture of another size")
    return ImageHeader("webp", width, height, orientation=orientation, alpha=alpha or _flagged(data))


def _flagged(data: bytes) -> bool:
    return data[12:16] == b"VP8X" and bool(data[20] & _ALPHA)


def _extended(data: bytes, body: int) -> tuple[int, int]:
    flags = data[body]
    if flags & _ANIMATION:
        raise ImageUnsupported("animated WebP is not served", hint="send a single picture")
    width = int.from_bytes(data[body + 4 : body + 7], "little") + 1
    height = int.from_bytes(data[body + 7 : body + 10], "little") + 1
    return width, height


def _lossy(data: bytes, body: int, length: int) -> tuple[int, int]:
    if length < 10 or data[body] & 1 or data[body + 3 : body + 6] != b"\x9d\x01\x2a":
        raise ImageInvalid("the WebP does not begin with a key frame")
    width, height = struct.unpack_from("<HH", data, body + 6)
    if not width & 0x3FFF or not height & 0x3FFF:
        raise ImageInvalid("the WebP declares a side of 0 pixels")
    return width & 0x3FFF, height & 0x3FFF


def _lossless(data: bytes, body: int, length: int) -> tuple[int, int, bool]:
    if length < 5 or data[body] != 0x2F:
        raise ImageInvalid("the WebP has no lossless signature")
    (bits,) = struct.unpack_from("<I", data, body + 1)
    return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1, bool((bits >> 28) & 1)
