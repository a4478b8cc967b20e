"""Which of the served formats a file is, and its header: read without touching a pixel, whatever the file promises."""

from __future__ import annotations

import struct

from serving.errors import ImageInvalid, ImageUnsupported
from serving.preprocess import header_jpeg, header_png, header_webp
from serving.preprocess.header import ImageHeader

_OTHER_FORMATS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"%PDF", "PDF"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"8BPS", "PSD"),
)


def read_header(data: bytes) -> ImageHeader:
    """Format, size and kind of an encoded picture.

    Raises ImageInvalid (empty, truncated, not a picture) or ImageUnsupported (another format, an animation, a coding
    that is not served). The cost does not depend on the size that the file declares.
    """
    if not data:
        raise ImageInvalid("the picture is empty (0 bytes)", hint="send the bytes of a JPEG, PNG or WebP file")
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return header_jpeg.read(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return header_png.read(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return header_webp.read(data)
    except (struct.error, IndexError) as error:
        raise ImageInvalid("the picture is truncated inside its header") from error
    for offset, magic, name in _OTHER_FORMATS:
        if data.startswith(magic, offset):
            raise ImageUnsupported(f"{name} pictures are not served", hint="send JPEG, PNG or WebP")
    raise ImageInvalid("the data is not a picture", hint="send the bytes of a JPEG, PNG or WebP file")
