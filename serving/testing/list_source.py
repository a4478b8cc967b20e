"""A source made of lists: each connection is a list of events, an error instead, or both, at a pace."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from serving.clock import Clock, SystemClock
from serving.errors import SourceError, SourceUnreachable
from serving.frames import Picture, SourceKind, StreamInfo
from serving.media import MediaEvent, PacketSeen, PictureSeen, StreamEnded, StreamOpened
from serving.types import PixelArray


@dataclass(frozen=True, slots=True)
class Connection:
    """pictures: raw PTS (None: absent) with what they show. refuse: raised by `connect`. end: how the stream ends.

    silent_s: quiet time before the end.
    """

    pictures: Sequence[tuple[int | None, PixelArray]] = ()
    refuse: SourceError | None = None
    end: SourceError | None = None
    silent_s: float = 0.0


@dataclass(slots=True)
class ListSource:
    """`serving.media.VideoSource` over `connections`; after the last one nobody answers. pace_s: between pictures."""

    source_id: str
    connections: Sequence[Connection]
    kind: SourceKind = SourceKind.LIVE
    time_base: Fraction = Fraction(1, 90_000)
    pts_modulus: int | None = None
    pace_s: float = 0.0
    clock: Clock = field(default_factory=SystemClock)
    connected: int = 0

    def connect(self) -> ListReader:
        """The next connection."""
        if self.connected >= len(self.connections):
            raise SourceUnreachable(f"{self.source_id}: nobody answers")
        connection = self.connections[self.connected]
        self.connected += 1
        if connection.refuse is not None:
            raise connection.refuse
        return ListReader(self, connection)


class ListReader:
    """`serving.media.VideoReader` of one connection; one packet is one picture."""

    def __init__(self, source: ListSource, connection: Connection) -> None:
        self._source, self._connection = source, connection
        self._closed = threading.Event()

    def events(self) -> Iterator[MediaEvent]:
        """As a decoder without reordering gives them."""
        source = self._source
        for tag, (raw_pts, rgb) in enumerate(self._connection.pictures):
            if tag == 0:
                yield StreamOpened(self._info(rgb))
            if self._closed.wait(source.pace_s) if source.pace_s else self._closed.is_set():
                break
            yield PacketSeen(tag, raw_pts, tag == 0, False)
            yield PictureSeen(tag, raw_pts, source.clock.monotonic_ns(), Picture(array=rgb))
        if self._connection.silent_s:
            self._closed.wait(self._connection.silent_s)
        yield StreamEnded(self._connection.end)

    def close(self) -> None:
        """End at the present picture."""
        self._closed.set()

    def _info(self, rgb: PixelArray) -> StreamInfo:
        source = self._source
        height, width = rgb.shape[:2]
        return StreamInfo(source.source_id, source.kind, source.time_base, width, height, "list", source.pts_modulus)


def grey(level: int, width: int = 64, height: int = 48) -> PixelArray:
    """A plain picture."""
    return np.full((height, width, 3), level, np.uint8)


def steady(
    count: int, step: int = 3000, start: int = 0, level: Callable[[int], int] = int
) -> list[tuple[int, PixelArray]]:
    """Pictures at an even rate, each of grey level `level(number)`."""
    return [(start + n * step, grey(level(n) % 256)) for n in range(count)]
