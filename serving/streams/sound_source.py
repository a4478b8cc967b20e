"""The sound of a file as a source of its own: pieces of it on the timeline of the file's pictures.

In the place of a picture each frame has a WAV of mono 32-bit floats at the rate that the models hear. The first begins
with the file's first picture (with the sound, where there is none), so that a time means the same moment for both: what
sounds before it is left out, a later beginning and holes are silence. Sound may end before the pictures or after them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from serving.clock import Clock
from serving.errors import SourceError, SourceInvalid
from serving.frames import Picture, SourceKind, StreamInfo
from serving.media import (
    DecoderRefused,
    MediaEvent,
    PacketSeen,
    PictureSeen,
    SoundTrack,
    StreamEnded,
    StreamOpened,
    VideoReader,
)
from serving.preprocess.audio import Resampler, SoundLimits, wav_of
from serving.spec import SoundSpec
from serving.types import FloatArray

PIECE_S = 0.5
HOLE_S = 0.05  # stamps of containers move by milliseconds; what is missing for longer is a hole
BACK_S = 1  # sound that begins further back than this was not repeated: another recording follows


@dataclass(frozen=True, slots=True)
class SoundSource:
    """See `serving.media.VideoSource`. rule: how the models hear, which gives rate and length of a piece."""

    source_id: str
    open_track: Callable[[], SoundTrack]
    rule: SoundSpec
    clock: Clock
    limits: SoundLimits

    @property
    def kind(self) -> SourceKind:
        """A file has an end."""
        return SourceKind.FILE

    def connect(self) -> VideoReader:
        """Raises what opening the track raises."""
        return SoundReader(self, self.open_track())


class SoundReader:
    """See `serving.media.VideoReader`: for each piece a packet and its "picture"."""

    def __init__(self, source: SoundSource, track: SoundTrack) -> None:
        self._source, self._track = source, track
        self._rule, self._pieces = source.rule, Pieces(source.rule)
        self._closing = False

    def close(self) -> None:
        """End after the present piece."""
        self._closing = True

    def events(self) -> Iterator[MediaEvent]:
        """Pieces of equal length, the last filled up to a whole window with silence."""
        error: SourceError | None = None
        yield StreamOpened(self._info())
        try:
            for samples in self._resampled():
                if samples is None:
                    yield DecoderRefused("a packet of sound does not decode")
                elif self._closing:
                    break
                else:
                    yield from self._seen(self._pieces.feed(samples))
        except SourceError as failure:
            error = failure
        finally:
            self._track.close()
        yield from self._seen(self._pieces.end())
        yield StreamEnded(error)

    def _info(self) -> StreamInfo:
        rate = self._rule.sample_rate
        average = Fraction(rate, self._pieces.length)
        return StreamInfo(self._source.source_id, SourceKind.FILE, Fraction(1, rate), 1, 1, self._track.codec,
                          average_rate=average, sample_rate=rate)  # fmt: skip

    def _seen(self, pieces: Iterator[tuple[int, FloatArray]]) -> Iterator[MediaEvent]:
        for place, samples in pieces:
            yield PacketSeen(place, place, True, False)
            sound = Picture(encoded=wav_of(samples, self._rule.sample_rate))
            yield PictureSeen(place, place, self._source.clock.monotonic_ns(), sound)

    def _resampled(self) -> Iterator[FloatArray | None]:
        """Samples at the rule's rate, without holes; None for what did not decode."""
        if self._track.rate == self._rule.sample_rate:
            yield from self._without_holes()
            return
        resampler = Resampler(self._track.rate, self._rule.sample_rate)
        for samples in self._without_holes():
            yield None if samples is None else resampler.feed(samples)
        yield resampler.end()

    def _without_holes(self) -> Iterator[FloatArray | None]:
        """Samples at the track's rate from the first picture on."""
        rate, begin_s, at, back = self._track.rate, self._track.first_picture_s, 0, 0
        most = self._source.limits.max_seconds
        for block in self._track.blocks():
            samples = block.samples
            if samples is None:
                yield None
                continue
            begin_s = block.begin_s if begin_s is None else begin_s
            place = at if block.begin_s is None or begin_s is None else round((block.begin_s - begin_s) * rate)
            if place + len(samples) > most * rate:
                raise SourceInvalid(f"{self._source.source_id}: more than {most:.0f} s of sound")
            if block.begin_s is not None:
                back = back + 1 if at and at - place > BACK_S * rate else 0
            if back > 1:  # one alone is a stray
                steps = f"sound steps back at {at / rate:.1f} s to {place / rate:.1f} s, what follows has no time"
                raise SourceInvalid(f"{self._source.source_id}: {steps}", hint="hear each recording by itself")
            slack = HOLE_S * rate if at else 0
            if at - place > slack:
                samples = samples[at - place :]
            while place - at > slack:
                silent = min(place - at, rate)
                at += silent
                yield np.zeros(silent, np.float32)
            at += len(samples)
            yield samples


class Pieces:
    """Cuts samples into pieces of whole steps, about half a second long, one window at least."""

    def __init__(self, rule: SoundSpec) -> None:
        self._rule = rule
        self.length = max(rule.window, rule.step * max(1, round(PIECE_S * rule.sample_rate / rule.step)))
        self._kept = np.zeros(0, np.float32)
        self._at = 0

    def feed(self, samples: FloatArray) -> Iterator[tuple[int, FloatArray]]:
        """Pieces that are full now, each with the place of its first sample."""
        self._kept = np.concatenate([self._kept, samples])
        while len(self._kept) >= self.length:
            piece, self._kept = self._kept[: self.length], self._kept[self.length :]
            yield self._at, piece
            self._at += self.length

    def end(self) -> Iterator[tuple[int, FloatArray]]:
        """What is left, filled up so that its last sample is in a window."""
        rule, heard = self._rule, self._at + len(self._kept)
        steps = -(-max(0, heard - rule.window) // rule.step)
        last = np.pad(self._kept, (0, rule.window + steps * rule.step - heard))
        if heard and len(last):
            yield self._at, last
