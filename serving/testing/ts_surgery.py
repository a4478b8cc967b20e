"""Changes to the timestamps and packets of an MPEG transport stream, byte by byte (ISO/IEC 13818-1, 2.4.3.6).

Muxers refuse to write what cameras send: missing and repeated PTS, jumps, lost packets. So a good stream is written
first and then spoilt here. Video PES only (stream_id 0xE0 to 0xEF).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

PACKET = 188
WRAP = 1 << 33


@dataclass(frozen=True, slots=True)
class Stamps:
    """PTS and DTS of one PES packet, 33 bits each; None where absent."""

    pts: int | None
    dts: int | None


def restamp(data: bytes, change: Callable[[int, Stamps], Stamps]) -> bytes:
    """The stream with the stamps that `change(number of the picture in the file, stamps)` gives.

    A stamp may be taken away or changed modulo 2^33, and DTS may be taken away; none can be added where none was.
    """
    out = bytearray(data)
    for number, at in enumerate(_pes_headers(data)):
        _write(out, at, change(number, _read(data, at)))
    return bytes(out)


def without_pictures(data: bytes, lost: frozenset[int]) -> bytes:
    """The stream without all transport packets of these pictures (numbered in file order), as a lossy line gives it."""
    out = bytearray()
    number, pid_of_video = -1, None
    starts = {at - at % PACKET for at in _pes_headers(data)}
    for offset in range(0, len(data) - PACKET + 1, PACKET):
        packet = data[offset : offset + PACKET]
        pid = (packet[1] & 0x1F) << 8 | packet[2]
        if offset in starts:
            number, pid_of_video = number + 1, pid
        if pid != pid_of_video or number not in lost:
            out += packet
    return bytes(out)


def _pes_headers(data: bytes) -> Iterator[int]:
    """Offsets of video PES headers."""
    for offset in range(0, len(data) - PACKET + 1, PACKET):
        if data[offset] != 0x47:
            raise ValueError(f"transport stream: expected a sync byte at {offset}, got {data[offset]:#x}")
        if not data[offset + 1] & 0x40:
            continue
        at = offset + 4
        if data[offset + 3] & 0x20:
            at += 1 + data[at]
        if data[at : at + 3] == b"\x00\x00\x01" and 0xE0 <= data[at + 3] <= 0xEF:
            yield at


def _read(data: bytes, at: int) -> Stamps:
    flags = data[at + 7] >> 6
    pts = _stamp(data, at + 9) if flags & 2 else None
    return Stamps(pts, _stamp(data, at + 14) if flags == 3 else None)


def _write(out: bytearray, at: int, stamps: Stamps) -> None:
    length = out[at + 8]
    flags = (2 if stamps.pts is not None else 0) | (1 if stamps.dts is not None else 0)
    needed = (0, 0, 5, 10)[flags]
    if flags == 1 or length < needed:
        raise ValueError(f"transport stream: expected room for {stamps} in a header of {length} bytes")
    out[at + 7] = (out[at + 7] & 0x3F) | flags << 6
    out[at + 9 : at + 9 + length] = b"\xff" * length
    if stamps.pts is not None:
        out[at + 9 : at + 14] = _bytes(stamps.pts, flags)
    if stamps.dts is not None:
        out[at + 14 : at + 19] = _bytes(stamps.dts, 1)


def _stamp(data: bytes, at: int) -> int:
    b = data[at : at + 5]
    return (b[0] >> 1 & 7) << 30 | b[1] << 22 | (b[2] >> 1) << 15 | b[3] << 7 | b[4] >> 1


def _bytes(stamp: int, prefix: int) -> bytes:
    s = stamp % WRAP
    first = prefix << 4 | (s >> 30 & 7) << 1 | 1
    return bytes((first, s >> 22 & 255, (s >> 15 & 127) << 1 | 1, s >> 7 & 255, (s & 127) << 1 | 1))
