"""The bytes of an LZ4 frame, as the format's own description has it (lz4_Frame_format.md, lz4_Block_format.md).

For one file of weights whose SHA-256 is known; checksums inside it are left out.
"""

from __future__ import annotations

import struct


def decompressed(data: bytes) -> bytes:
    """All blocks of the first frame."""
    (magic,), flags = struct.unpack_from("<I", data), data[4]
    assert magic == 0x184D2204 and flags >> 6 == 1, data[:5].hex()
    at = 7 + 8 * bool(flags & 8) + 4 * bool(flags & 1)
    out = bytearray()
    while size := struct.unpack_from("<I", data, at)[0]:
        block = data[at + 4 : at + 4 + (size & 0x7FFFFFFF)]
        if size >> 31:
            out += block
        else:
            _decode(block, out)
        at += 4 + len(block) + 4 * bool(flags & 16)
    return bytes(out)


def _decode(block: bytes, out: bytearray) -> None:
    """Literals, then a copy of what went before, again and again; the last literals have no copy behind them."""
    at = 0
    while True:
        token, at = block[at], at + 1
        count, at = _length(block, at, token >> 4)
        out += block[at : at + count]
        at += count
        if at == len(block):
            return
        back = struct.unpack_from("<H", block, at)[0]
        count, at = _length(block, at + 2, token & 15)
        start = len(out) - back
        assert 0 < back <= len(out)
        for place in range(start, start + count + 4):  # the copy may run into what it writes
            out.append(out[place])


def _length(block: bytes, at: int, count: int) -> tuple[int, int]:
    if count == 15:
        more = 255
        while more == 255:
            more, at = block[at], at + 1
            count += more
    return count, at
