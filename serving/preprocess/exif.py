"""The orientation tag of an EXIF block, and nothing else of it.

Source: CIPA DC-008 (Exif 2.32), tag 0x0112 in IFD0 of a TIFF structure.
"""

from __future__ import annotations

import struct

_ORIENTATION = 0x0112
_SHORT = 3


def orientation_of(tiff: bytes) -> int:
    """Orientation 1..8 of a TIFF structure (without the `Exif` prefix); 1 where it is absent or damaged.

    A damaged EXIF block does not make a picture unreadable; every viewer shows it as stored.
    """
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    magic, start = struct.unpack_from(order + "HI", tiff, 2)
    if magic != 42 or start + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(order + "H", tiff, start)
    for index in range(count):
        entry = start + 2 + 12 * index
        if entry + 12 > len(tiff):
            return 1
        tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
        if tag == _ORIENTATION:
            return int(value) if kind == _SHORT and 1 <= value <= 8 else 1
    return 1
