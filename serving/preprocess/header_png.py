"""PNG header: IHDR, and the chunks that say whether there is transparency, orientation or an animation.

Source: Portable Network Graphics specification (third edition), sections 5 and 11.
"""

from __future__ import annotations

import struct

from serving.errors import ImageInvalid, ImageUnsupported
from serving.preprocess.exif import orientation_of
from serving.preprocess.header import ImageHeader

# colour type -> (components as stored, has an alpha channel, allowed bit depths)
_KINDS: dict[int, tuple[int, bool, tuple[int, ...]]] = {
    0: (1, False, (1, 2, 4, 8, 16)),
    2: (3, False, (8, 16)),
    3: (1, False, (1, 2, 4, 8)),
    4: (2, True, (8, 16)),
    6: (4, True, (8, 16)),
}
_MAX_CHUNKS = 16_384


def read(data: bytes) -> ImageHeader:
    """Header of a PNG file. Raises ImageInvalid, ImageUnsupported (animated PNG)."""
    length, kind = struct.unpack_from(">I4s", data, 8)
    if kind != b"IHDR" or length != 13:
        raise ImageInvalid("the PNG does not begin with its IHDR chunk")
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    if not 0 < width < 2**31 or not 0 < height < 2**31:
        raise ImageInvalid(f"the PNG declares {width} x {height} pixels")
    components, alpha, depths = _KINDS.get(colour, (0, False, ()))
    if bits not in depths:
        raise ImageInvalid(f"the PNG declares colour type {colour} with {bits} bits, which does not exist")
    transparent, orientation = _chunks(data)
    return ImageHeader(
        "png",
        width,
        height,
        orientation=orientation,
        components=components,
        bits=bits,
        alpha=alpha or transparent,
    )


def _chunks(data: bytes) -> tuple[bool, int]:
    transparent, orientation, position, pixels = False, 1, 33, False
    for _ in range(_MAX_CHUNKS):
        if position + 12 > len(data):
            raise ImageInvalid("the PNG is truncated: its IEND chunk is missing")
        length, kind = struct.unpack_from(">I4s", data, position)
        if position + 12 + length > len(data):
            raise ImageInvalid("the PNG is truncated inside a chunk")
        if kind == b"IEND":
            if not pixels:
                raise ImageInvalid("the PNG holds no pixels (no IDAT chunk)")
            return transparent, orientation
        if kind in (b"acTL", b"fcTL", b"fdAT"):
            raise ImageUnsupported("animated PNG is not served", hint="send a single picture")
        if kind == b"IDAT":
            pixels = True
        elif kind == b"tRNS":
            transparent = True
        elif kind == b"eXIf":
            orientation = orientation_of(data[position + 8 : position + 8 + length])
        position += 12 + length
    raise ImageInvalid(f"the PNG has more than {_MAX_CHUNKS} chunks")
