"""Sound of a file, copied packet by packet beside the mixed pictures; nothing is decoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

from serving.adapters.video.containers import pts_modulus
from serving.align.unwrap import unwrap

MP4_CODECS = frozenset({"aac", "mp3", "mp3float", "ac3", "eac3", "opus", "alac", "flac"})
FILES = {"protocol_whitelist": "file,crypto,data", "correct_ts_overflow": "0"}  # unwrapping is ours, as for pictures
STEP_S = 1  # sound whose time goes on further away than this is that of another epoch, or comes after a hole


def sound_of(container: Any) -> Any | None:
    """The sound of the programme that the pictures are of; None without any. A transport stream may hold several."""
    audio = container.streams.audio
    return (container.streams.best("audio", container.streams.best("video")) or audio[0]) if audio else None


class SoundCopy:
    """The sound of `path` into `container`, interleaved by decoding time, at the times that the pictures beside it
    have there.

    note: why there is no sound, '' where it is copied (or the file has none).
    """

    def __init__(self, path: str, container: Any) -> None:
        self.note = ""
        self.packets = self.left_out = 0
        self._source: Any = None
        self._next: tuple[Any, int, bool] | None = None
        self._stream: Any = None
        self._epochs: deque[tuple[int, int]] = deque()  # first pictures whose sound has not come: ticks here and there
        self._shift = 0
        self._tick: int | None = None  # of the last packet by the source, and by the output
        self._last: int | None = None
        try:
            source = av.open(path, options=FILES)
        except (OSError, av.FFmpegError) as error:
            self.note = f"no sound: {path} cannot be opened a second time: {type(error).__name__}"
            return
        template = sound_of(source)
        if template is None:
            source.close()
            return
        codec = template.codec_context.name if template.codec_context else "unknown"
        if codec not in MP4_CODECS:
            self.note = f"no sound: codec {codec} does not fit MP4"
            source.close()
            return
        self._source = source
        self._modulus = pts_modulus(source.format.name)
        self._base = Fraction(template.time_base)
        self._stream = container.add_stream_from_template(template)
        self._packets = self._read(source, template)
        self._next = next(self._packets, None)

    def epoch(self, at_s: Fraction, out_s: Fraction) -> None:
        """The first picture of an epoch: its time in the source, and in the output."""
        if self._source is not None:
            self._epochs.append((round(at_s / self._base), round(out_s / self._base)))

    def up_to(self, seconds: Fraction | None) -> Iterator[Any]:
        """Packets that come before this moment of the output; all that are left for None."""
        while self._next is not None:
            packet, tick, turn = self._next
            if turn and self._begins_epoch(tick):
                self._next = packet, tick, False
            elif turn and self._tick is not None and tick <= self._tick:  # that of an epoch without pictures so far
                if seconds is None:
                    self.left_out += 1 + sum(1 for _ in self._packets)
                    self._next = None
                return
            out = tick + self._shift
            if seconds is not None and out * self._base > seconds:
                return
            self._next, self._tick = next(self._packets, None), tick
            if self._last is not None and out <= self._last:  # no muxer takes it
                self.left_out += 1
                continue
            self._last = out
            yield self._moved(packet, out)

    def end(self, error: Exception) -> None:
        """The muxer would not take a packet: no more comes."""
        self.note, self._next = f"sound ends early: {type(error).__name__}", None

    def close(self) -> None:
        """Close the second reading of the file."""
        if self._source is not None:
            self._source.close()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _begins_epoch(self, tick: int) -> bool:
        """Whether sound that begins, or goes on elsewhere, is of an epoch whose pictures came: then it has a place."""
        found = min(self._epochs, key=lambda epoch: abs(tick - self._near(epoch[0], tick)), default=None)
        if found is None:
            return False
        begin = self._near(found[0], tick)
        if self._tick is not None and abs(tick - begin) > abs(tick - self._tick):
            return False  # a hole in the old one
        while self._epochs.popleft() is not found:
            continue  # no sound steps with it
        self._shift = found[1] - begin
        return True

    def _near(self, tick: int, ref: int) -> int:
        return unwrap(tick, ref, self._modulus)

    def _moved(self, packet: Any, out: int) -> Any:
        by = out - packet.dts
        packet.dts, packet.pts = out, None if packet.pts is None else packet.pts + by
        packet.stream = self._stream
        self.packets += 1
        return packet

    def _read(self, source: Any, template: Any) -> Iterator[tuple[Any, int, bool]]:
        """Packets, their unwrapped ticks, and whether they are away from where the sound was.

        One that is, and that the next one does not follow, is a stray and left out (docs/alignment.md, "Ingest", 2).
        """
        step = round(STEP_S / self._base)
        ref: int | None = None
        held: tuple[Any, int] | None = None
        for packet in self._demuxed(source, template):
            tick = packet.dts if ref is None else self._near(packet.dts, ref)
            if held is not None:
                if ref is not None and abs(tick - ref) <= step:
                    self.left_out += 1
                else:
                    yield (*held, True)
                    ref = held[1]
                    tick = self._near(packet.dts, ref)
                held = None
            if ref is None or abs(tick - ref) > step:
                held = packet, tick
                continue
            ref = tick
            yield packet, tick, False
        if held is not None:
            yield (*held, True)

    def _demuxed(self, source: Any, template: Any) -> Iterator[Any]:
        try:
            for packet in source.demux(template):
                if packet.size and packet.dts is not None:
                    yield packet
        except (OSError, av.FFmpegError) as error:
            self.note = f"sound ends early: {type(error).__name__}"
