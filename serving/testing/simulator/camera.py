"""A camera with B-frames: packets on time, with the timestamps a bad day gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

from serving.align.unwrap import MPEG_TS_MODULUS
from serving.testing.coded_stream import CodedPacket, coded_stream
from serving.testing.simulator.scheduler import Process, Scheduler

FPS = 15
TICKS = 90_000 // FPS
FRAME_NS = 1_000_000_000 // FPS
GOP = 30


@dataclass(frozen=True, slots=True)
class Sent:
    """A packet on the wire. index: which picture it is, over all connections. corrupt: its picture is damaged.

    huge: its picture fits into no record of the log.
    """

    packet: CodedPacket
    index: int
    connection: int
    corrupt: bool = False
    huge: bool = False


class Camera(Process):
    """Sends `frames` pictures to whoever listens. Faults change what it sends from then on.

    base: added to every raw PTS. connection: rises when the receiver sees a reconnect.
    """

    def __init__(self, scheduler: Scheduler, source_id: str, frames: int) -> None:
        super().__init__(scheduler)
        self.source_id = source_id
        self.frames = frames
        self.listeners: list[Callable[[Sent], None]] = []
        self.connection = 1
        self.base = MPEG_TS_MODULUS - scheduler.rng.randrange(1, frames) * TICKS  # it wraps during the run
        self.damage = 0.0
        self.paused_until_ns = 0
        self._gop: list[CodedPacket] = []
        self._gop_start = 0
        self._place = 0
        self._tag = 0

    def start(self) -> None:
        """The first packet."""
        self.after(0, self._next)

    def reconnect(self, gap_ns: int, base: int | None) -> None:
        """Gone for a while; then a new connection that begins with a keyframe, PTS from `base` or going on."""
        now = self.scheduler.monotonic_ns()
        self.paused_until_ns = max(self.paused_until_ns, now + gap_ns)
        self.connection += 1
        self._jump(gap_ns, base)

    def restart_clock(self, base: int) -> None:
        """Other timestamps in mid-connection, from the next keyframe on."""
        self._jump(0, base)

    def pause(self, gap_ns: int) -> None:
        """Silence without a reconnect; PTS go on as if it had been there."""
        self.paused_until_ns = self.scheduler.monotonic_ns() + gap_ns
        self._jump(gap_ns, None)

    @property
    def next_index(self) -> int:
        """About the picture that is sent next."""
        return self._gop_start + self._place

    @property
    def done(self) -> bool:
        """Everything was sent."""
        return self._gop_start + self._place >= self.frames or self._gop_start >= self.frames

    def _jump(self, gap_ns: int, base: int | None) -> None:
        """Begin a new GOP; the pictures left out of this one keep their indices to themselves."""
        skipped = len(self._gop) - self._place
        self._gop_start += len(self._gop)
        self._gop, self._place = [], 0
        if base is None:
            self.base += gap_ns * TICKS // FRAME_NS - skipped * TICKS
        else:
            self.base = base - self._gop_start * TICKS

    def _next(self) -> None:
        wait = self.paused_until_ns - self.scheduler.monotonic_ns()
        if wait > 0:
            self.after(wait, self._next)
            return
        if self.done:
            return
        if self._place >= len(self._gop):
            self._gop_start, self._place = self._gop_start + len(self._gop), 0
            self._gop = _gop(min(GOP, self.frames - self._gop_start))
        packet = self._gop[self._place]
        self._place += 1
        self._send(packet)
        self.after(FRAME_NS + self.scheduler.between(-8, 8), self._next)

    def _send(self, packet: CodedPacket) -> None:
        rng, index = self.scheduler.rng, self._gop_start + packet.index
        raw: int | None = (self.base + index * TICKS) % MPEG_TS_MODULUS
        if rng.random() < self.damage / 3:  # a stamp hours away, one seen before, one before the last, none at all
            hours = (self.base + 5 * 3600 * 90_000) % MPEG_TS_MODULUS
            raw = rng.choice([hours, (raw or 0) - TICKS, (raw or 0) - TICKS - TICKS // 2, None])
        hit = rng.random() < self.damage
        lost = hit and not packet.keyframe and rng.random() < 0.5
        stamped = replace(packet, raw_pts=raw, index=index, tag=self._tag, lost=lost)
        self._tag += 1
        huge = hit and not lost and rng.random() < 0.2
        sent = Sent(stamped, index, self.connection, corrupt=hit and not lost and not huge, huge=huge)
        for listener in self.listeners:
            self.scheduler.after(self.scheduler.between(1, 6), partial(listener, sent))


@cache
def _gop(frames: int) -> list[CodedPacket]:
    return coded_stream("ibbp", [TICKS] * frames)
