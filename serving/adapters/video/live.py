"""A camera out of a clip: its packets sent over and over as live MPEG-TS, at their pace, with PTS that run on.

Nothing is encoded again. Each round is shifted by the clip's exact duration, so a reader sees one endless stream: no
new epoch where the clip begins anew. UDP has no connection: whoever listens later begins at the next keyframe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from serving.clock import NS_PER_S, Clock
from serving.errors import SourceInvalid

Wait = Callable[[float], bool]
TIME_BASE = Fraction(1, 90_000)  # ISO/IEC 13818-1: 90 kHz
BEHIND_NS = 2 * NS_PER_S
PACKET_BYTES = 1316  # seven TS packets, below the usual MTU


@dataclass(frozen=True, slots=True)
class _Unit:
    data: bytes
    pts: int
    dts: int
    keyframe: bool


class ClipLoop:
    """The packets of a clip in ticks of 1/90000, from 0 on, and how long one round is. Raises SourceInvalid."""

    def __init__(self, path: Path) -> None:
        with av.open(str(path)) as container:
            stream: Any = container.streams.video[0]
            scale = stream.time_base / TIME_BASE
            packets = [p for p in container.demux(stream) if p.size and p.pts is not None and p.dts is not None]
            if len(packets) < 2 or stream.average_rate is None:
                raise SourceInvalid(f"{path}: expected a clip of some pictures with PTS and a rate")
            first = min(p.pts for p in packets)
            self.units = [
                _Unit(bytes(p), round((p.pts - first) * scale), round((p.dts - first) * scale), p.is_keyframe)
                for p in packets
            ]
            self.duration = round(len(packets) / (Fraction(stream.average_rate) * TIME_BASE))


def send_live(path: Path, address: str, clock: Clock, wait: Wait) -> int:
    """Send until wait(seconds) is True; how many packets. address: such as udp://127.0.0.1:5000.

    The PTS go on from the machine's monotonic clock, so that a sender that is started again leaves a gap, not a new
    stream. Where the process was held up for long it goes on from now: a camera does not catch up either.
    """
    loop, sent = ClipLoop(path), 0
    options = {"flush_packets": "1", "pat_period": "0.5", "mpegts_flags": "resend_headers"}
    target = f"{address}?pkt_size={PACKET_BYTES}" if address.startswith("udp:") and "?" not in address else address
    with av.open(str(path)) as source, av.open(target, "w", format="mpegts", container_options=options) as out:
        stream: Any = out.add_stream_from_template(source.streams.video[0])
        start_ns = clock.monotonic_ns()
        origin = start_ns * 9 // 100_000
        while True:
            for unit in loop.units:
                due_ns = (origin + unit.dts) * 100_000 // 9
                ahead_ns = due_ns - clock.monotonic_ns()
                if wait(max(0.0, ahead_ns / NS_PER_S)):
                    return sent
                if ahead_ns < -BEHIND_NS:
                    origin += -ahead_ns * 9 // 100_000
                packet = av.Packet(unit.data)
                packet.stream, packet.time_base = stream, TIME_BASE
                packet.pts, packet.dts, packet.is_keyframe = origin + unit.pts, origin + unit.dts, unit.keyframe
                out.mux(packet)
                sent += 1
            origin += loop.duration
