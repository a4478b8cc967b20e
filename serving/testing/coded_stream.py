"""Streams made of numbers: packets in decode order and the pictures a decoder gives for them, without any codec.

Every picture carries the index of what it shows, so that a checker can tell which picture a box was computed from.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

NS_PER_S = 1_000_000_000
REORDER = {"none": 0, "ibbp": 1, "pyramid1": 1, "pyramid3": 2, "pyramid7": 3, "pyramid15": 4}


@dataclass(frozen=True, slots=True)
class CodedPacket:
    """One packet. index: what its picture shows, also its place in presentation order. true_ns: when that is.

    raw_pts and raw_dts are what the container says. lost: the decoder gives no picture for it. connection: rises at
    every reconnect.
    """

    index: int
    true_ns: int
    raw_pts: int | None
    raw_dts: int | None
    arrival_ns: int
    tag: int
    keyframe: bool
    lost: bool = False
    connection: int = 0


def decode_order(pattern: str, frames: int) -> list[int]:
    """Presentation indices in decode order. pattern: a name of `REORDER`; `pyramidN` has N B-frames in a hierarchy."""
    if pattern == "none":
        return list(range(frames))
    between = 2 if pattern == "ibbp" else int(pattern.removeprefix("pyramid"))
    order = [0]
    for start in range(0, frames - 1, between + 1):
        anchor = min(start + between + 1, frames - 1)
        order.append(anchor)
        inner = range(start + 1, anchor)
        order += inner if pattern == "ibbp" else _middle_first(start + 1, anchor - 1)
    return order


def _middle_first(first: int, last: int) -> list[int]:
    if first > last:
        return []
    middle = (first + last) // 2
    return [middle, *_middle_first(first, middle - 1), *_middle_first(middle + 1, last)]


def coded_stream(
    pattern: str = "none",
    durations: Iterable[int] = (3000,) * 300,
    time_base: Fraction = Fraction(1, 90_000),
    start: int = 0,
    modulus: int | None = None,
    depth: int | None = None,
) -> list[CodedPacket]:
    """Packets in decode order. durations: ticks to the next picture; start: unwrapped PTS of the first one.

    DTS are those of the decode order, shifted by the reorder depth so that they never pass the PTS. A packet arrives
    when its decode time comes.
    """
    pts = [0]
    for duration in durations:
        pts.append(pts[-1] + duration)
    frames = len(pts) - 1
    shift = REORDER[pattern] if depth is None else depth
    packets = []
    for place, index in enumerate(decode_order(pattern, frames)):
        dts = pts[place - shift] if place >= shift else pts[0] - (shift - place) * (pts[1] - pts[0])
        packets.append(
            CodedPacket(
                index=index,
                true_ns=_ns(pts[index], time_base),
                raw_pts=_wrap(start + pts[index], modulus),
                raw_dts=_wrap(start + dts, modulus),
                arrival_ns=_ns(pts[place], time_base),
                tag=place,
                keyframe=place == 0,
            )
        )
    return packets


def pictures(packets: Iterable[CodedPacket], depth: int) -> Iterator[tuple[CodedPacket | None, CodedPacket | None]]:
    """The decoder: (packet that went in, picture that came out for it or None), pictures in presentation order.

    At the end of a connection the decoder is drained: what comes out then has no packet beside it.
    """
    waiting: list[tuple[int, int, CodedPacket]] = []
    last: CodedPacket | None = None
    for packet in packets:
        if last is not None and packet.connection != last.connection:
            while waiting:
                yield None, heapq.heappop(waiting)[2]
        if not packet.lost:
            heapq.heappush(waiting, (packet.index, packet.tag, packet))
        yield packet, heapq.heappop(waiting)[2] if len(waiting) > depth else None
        last = packet
    while waiting:
        yield None, heapq.heappop(waiting)[2]


def shifted(packets: list[CodedPacket], by_ns: int, connection: int, index: int) -> list[CodedPacket]:
    """The same packets as a later connection: arriving later, tags and indices go on, raw PTS stay."""
    tags = max(p.tag for p in packets) + 1
    return [
        replace(
            p,
            index=p.index + index,
            arrival_ns=p.arrival_ns + by_ns,
            tag=p.tag + tags * connection,
            connection=connection,
        )
        for p in packets
    ]


def _ns(ticks: int, time_base: Fraction) -> int:
    return round(ticks * time_base * NS_PER_S)


def _wrap(ticks: int, modulus: int | None) -> int:
    return ticks if modulus is None else ticks % modulus
