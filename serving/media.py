"""What a video reader tells ingest, and what the mixer tells a video writer; `serving.adapters.video` meets it.

A reader is one connection to one source. Its events come in this order: `StreamOpened`, then packets and pictures,
`StreamOpened` again where the codec parameters change, and exactly one `StreamEnded`. Raw PTS are the container's own
integers; nothing here computes a time from a frame rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Protocol

from serving.errors import SourceError
from serving.frames import AlignedFrame, CaptureQuality, Picture, SourceKind, StreamInfo
from serving.types import FloatArray, PixelArray

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The decoder starts anew with these parameters: the next picture opens an epoch.

    first_tag: the size changed on the way through the decoder: this packet, told before, is the first of that size.
    """

    info: StreamInfo
    first_tag: int | None = None


@dataclass(frozen=True, slots=True)
class PacketSeen:
    """A packet went into the decoder. tag: running index over the whole connection.

    raw_dts is for diagnostics alone: sync-test shows with it what a DTS key does.
    """

    tag: int
    raw_pts: int | None
    keyframe: bool
    discard: bool
    raw_dts: int | None = None


@dataclass(frozen=True, slots=True)
class PictureSeen:
    """A decoded picture, in presentation order. arrival_mono_ns: when its packet was read, before decoding."""

    tag: int | None
    raw_pts: int | None
    arrival_mono_ns: int
    picture: Picture
    corrupt: bool = False
    packet_dts: int | None = None
    capture_ns: int | None = None
    capture_quality: CaptureQuality = CaptureQuality.NONE


@dataclass(frozen=True, slots=True)
class DecoderRefused:
    """The decoder would not take a packet."""

    reason: str


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The input is over. error: None at a regular end, else why (the decoder has been drained before)."""

    error: SourceError | None = None


MediaEvent = StreamOpened | PacketSeen | PictureSeen | DecoderRefused | StreamEnded


class VideoReader(Protocol):
    """One connection. `events` may be read once."""

    def events(self) -> Iterator[MediaEvent]: ...

    def close(self) -> None: ...


class VideoSource(Protocol):
    """Where a stream comes from. `connect` raises SourceError; a live source may be connected again.

    kind: what to expect of the source before it is connected; StreamInfo says what it is.
    """

    @property
    def source_id(self) -> str: ...

    @property
    def kind(self) -> SourceKind: ...

    def connect(self) -> VideoReader: ...


@dataclass(frozen=True, slots=True)
class SoundBlock:
    """Decoded sound. begin_s: time of its first sample by the container, None where it does not say (it goes on).
    samples: mono float32 [n]; None: a packet that did not decode."""

    begin_s: Fraction | None
    samples: FloatArray | None


class SoundTrack(Protocol):
    """The sound of a file. rate: samples a second. first_picture_s: on the same clock; None without pictures."""

    rate: int
    codec: str
    first_picture_s: Fraction | None

    def blocks(self) -> Iterator[SoundBlock]:
        """In the order of the file; raises SourceInvalid where it ends early."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class OutputStream:
    """What a writer must know before the first picture.

    time_base and origin: out ticks = origin + out_pts_ns in ticks of time_base, so that the output of a stream with
    one epoch carries the source's own PTS. sample_aspect: width by height of a pixel.
    """

    width: int
    height: int
    time_base: Fraction
    origin: int = 0
    average_rate: Fraction | None = None
    sample_aspect: Fraction = Fraction(1)

    def sized(self, width: int, height: int) -> OutputStream:
        """The same for pictures of this size. Of another size nobody told the shape of a pixel: it is a square."""
        same = (width, height) == (self.width, self.height)
        return replace(self, width=width, height=height, sample_aspect=self.sample_aspect if same else Fraction(1))


@dataclass(frozen=True, slots=True)
class OutputSummary:
    """What a writer made. notes: what was left out, and why."""

    path: str
    frames: int
    bytes: int
    notes: tuple[str, ...] = field(default=())


class VideoWriter(Protocol):
    """Takes shown frames in order. Raises StorageFailed where the disk refuses; `close` may be called twice.

    abandon: the run failed, leave nothing half-written.
    """

    def write(self, shown: AlignedFrame, rgb: PixelArray) -> None: ...

    def close(self) -> OutputSummary: ...

    def abandon(self) -> None: ...


def nearest_tick(pts_ns: int, time_base: Fraction) -> int:
    """The tick whose time rounds to `pts_ns`, in integers."""
    numerator = pts_ns * time_base.denominator
    denominator = time_base.numerator * NS_PER_S
    return (2 * numerator + denominator) // (2 * denominator)


def origin_of(shown: AlignedFrame) -> int:
    """Ticks that `OutputStream.origin` has where this is the output's first picture: it keeps the source's own PTS."""
    return shown.frame.pts - nearest_tick(shown.out_pts_ns, shown.frame.time_base)
