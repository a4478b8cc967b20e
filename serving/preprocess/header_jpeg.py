"""JPEG header: markers up to the first scan, and the number of scans.

Source: ITU-T T.81 annex B. Served are 8-bit Huffman baseline, extended sequential and progressive pictures (SOF0-2).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from serving.errors import ImageInvalid, ImageUnsupported
from serving.preprocess.exif import orientation_of
from serving.preprocess.header import ImageHeader

_MARKER = re.compile(rb"\xff[^\x00\xff]")
_SERVED = {0xC0, 0xC1, 0xC2}
_REFUSED = {
    **dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "lossless"),
    **dict.fromkeys((0xC5, 0xC6), "hierarchical"),
    **dict.fromkeys((0xC9, 0xCA, 0xCD, 0xCE), "arithmetic-coded"),
}
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_MAX_SEGMENTS = 4096


@dataclass(slots=True)
class _Seen:
    """What the segments before the first scan held."""

    frame: tuple[int, int, int] | None = None
    progressive: bool = False
    orientation: int = 1


def read(data: bytes) -> ImageHeader:
    """Header of a JPEG file. Raises ImageInvalid, ImageUnsupported."""
    seen = _Seen()
    position = 2
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, position)
        if found is None:
            raise ImageInvalid("the JPEG is truncated: it ends before its first scan")
        marker, position = data[found.start() + 1], found.end()
        if marker in _STANDALONE:
            continue
        if marker == 0xDA:
            return _finish(data, seen, found.start())
        if marker == 0xD9:
            raise ImageInvalid("the JPEG ends before its first scan")
        (length,) = struct.unpack_from(">H", data, position)
        segment = data[position + 2 : position + length]
        if length < 2 or len(segment) != length - 2:
            raise ImageInvalid("the JPEG is truncated inside its header")
        _take(seen, marker, segment)
        position += length
    raise ImageInvalid(f"the JPEG has more than {_MAX_SEGMENTS} segments before its first scan")


def _take(seen: _Seen, marker: int, segment: bytes) -> None:
    if marker in _REFUSED:
        raise ImageUnsupported(f"{_REFUSED[marker]} JPEG is not served", hint="save it as a baseline JPEG")
    if marker in _SERVED:
        if seen.frame is not None:
            raise ImageInvalid("the JPEG has two frame headers")
        bits, height, width, components = struct.unpack_from(">BHHB", segment)
        if bits != 8:
            raise ImageUnsupported(f"JPEG with {bits} bits a sample is not served", hint="save it with 8 bits")
        seen.frame = (width, height, components)
        seen.progressive = marker == 0xC2
    elif marker == 0xE1 and segment.startswith(b"Exif\x00\x00"):
        seen.orientation = orientation_of(segment[6:])


def _finish(data: bytes, seen: _Seen, first_scan: int) -> ImageHeader:
    if seen.frame is None:
        raise ImageInvalid("the JPEG has a scan before its frame header")
    width, height, components = seen.frame
    if not width or not height:
        raise ImageInvalid(f"the JPEG declares {width} x {height} pixels")
    if components not in (1, 3, 4):
        raise ImageUnsupported(f"JPEG with {components} components is not served", hint="send grey, RGB or CMYK")
    # Coded data never holds FF DA (an FF is followed by a stuffed 00), so counting the marker counts the scans. Where
    # a sequential picture's first scan holds all components (its fifth byte counts them), decoders take no second one.
    whole = not seen.progressive and data[first_scan + 4 : first_scan + 5] >= bytes([components])
    scans = 1 if whole else data.count(b"\xff\xda", first_scan)
    return ImageHeader(
        "jpeg",
        width,
        height,
        orientation=seen.orientation,
        components=components,
        progressive=seen.progressive,
        scans=scans,
    )
