"""What travels along a stream: streams, frames, outcomes, and frames ready to be shown.

Two keys, with two jobs. `FrameKey` (source_id, epoch, pts_ns) joins boxes to pictures. `LedgerKey` (source_id, epoch,
frame_seq, pipeline) names the place that must end with exactly one outcome; frames without a usable PTS have one too.
`pts_ns` is computed once, at ingest, in integers (docs/alignment.md); nobody computes it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import NamedTuple, Protocol

import numpy as np

from serving.types import Detections, PixelArray, TaskResult

NO_PTS = -(1 << 63)  # libav's "no value"; it must never be taken for a time


def is_sound(data: bytes | None) -> bool:
    """WAV or FLAC by its first bytes (WebP begins with RIFF too)."""
    return data is not None and (data[:4] == b"fLaC" or (data[:4] == b"RIFF" and data[8:12] == b"WAVE"))


def _expect(condition: bool, what: str, expected: object, got: object) -> None:
    if not condition:
        raise ValueError(f"{what}: expected {expected}, got {got!r}")


class SourceKind(Enum):
    """How a source is paced: a live one sheds what is late, files and jobs never do."""

    LIVE = "live"
    FILE = "file"
    JOB = "job"


class DropReason(Enum):
    """Why a frame has no result (the closed list of docs/guarantees.md). Earlier ones outrank later ones in a merge."""

    DECODE_ERROR = "decode_error"
    NO_PTS = "no_pts"
    BAD_PTS = "bad_pts"
    DUPLICATE_PTS = "duplicate_pts"
    OUT_OF_ORDER = "out_of_order"
    PREROLL = "preroll"
    FENCED = "fenced"
    TOO_LARGE = "too_large"
    NOT_SAMPLED = "not_sampled"
    OVERLOAD = "overload"
    STALE = "stale"
    MODEL_UNAVAILABLE = "model_unavailable"
    RETENTION = "retention"
    DEADLINE = "deadline"


class DeadReason(Enum):
    """Why a frame was given up (the closed list of docs/guarantees.md)."""

    POISON = "poison"
    SCHEMA = "schema"
    RETRY_EXHAUSTED = "retry_exhausted"


class Status(Enum):
    """The three ways a ledger key can end; a higher value outranks a lower one."""

    DROPPED = 0
    DEAD_LETTER = 1
    RESULT = 2


class PtsSource(Enum):
    """Where a frame's PTS came from."""

    CONTAINER = "container"
    INFERRED = "inferred"
    DEMUXER = "demuxer"
    ASSUMED = "assumed"


class CaptureQuality(Enum):
    """How far `capture_ns` can be trusted: sender report, producer, this host, or not at all."""

    SR = "sr"
    PRODUCER = "producer"
    HOST = "host"
    NONE = "none"


class Origin(Enum):
    """How a drawn box came to be; the values are those of `Overlay.origin`."""

    MEASURED = 0
    INTERPOLATED = 1
    EXTRAPOLATED = 2


class FrameKey(NamedTuple):
    """Joins boxes to pictures, and nothing else."""

    source_id: str
    epoch: int
    pts_ns: int


class LedgerKey(NamedTuple):
    """The place in the ledger that ends with exactly one outcome."""

    source_id: str
    epoch: int
    frame_seq: int
    pipeline: str


class PictureCodec(Protocol):
    """Turns pictures into bytes and back (JPEG on the log); handed in by the wiring."""

    def encode(self, rgb: PixelArray) -> bytes:
        """RGB uint8 [h, w, 3] -> the bytes of an encoded picture."""
        ...

    def decode(self, data: bytes) -> PixelArray:
        """The bytes of an encoded picture -> RGB uint8 [h, w, 3]."""
        ...


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture, kept in the form it came in: encoded bytes, an RGB uint8 [h, w, 3] array, or a call that makes one.

    `load` lets a decoder hand on its own picture: it is turned into RGB only where it is inferred or drawn.
    Nothing is cached, so a picture costs what its one form costs.
    """

    encoded: bytes | None = None
    array: PixelArray | None = None
    load: Callable[[], PixelArray] | None = None

    def __post_init__(self) -> None:
        given = sum(form is not None for form in (self.encoded, self.array, self.load))
        _expect(given == 1, "Picture", "exactly one of encoded, array, load", f"{given} of them")
        if self.array is not None:
            shape = self.array.shape
            _expect(len(shape) == 3 and shape[2] == 3, "Picture.array", "RGB shape [h, w, 3]", shape)
            _expect(self.array.dtype == np.uint8, "Picture.array", "dtype uint8", self.array.dtype)

    def rgb(self, codec: PictureCodec | None = None) -> PixelArray:
        """RGB uint8 [h, w, 3]; ValueError if the picture is encoded and no codec was handed in."""
        if self.array is not None:
            return self.array
        if self.load is not None:
            return self.load()
        if codec is None or self.encoded is None:
            raise ValueError("Picture.rgb: the picture is encoded, expected a codec to decode it with, got none")
        return codec.decode(self.encoded)

    def bytes(self, codec: PictureCodec) -> bytes:
        """Encoded bytes, unchanged if the picture came encoded."""
        return self.encoded if self.encoded is not None else codec.encode(self.rgb())


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What the container and decoder say of one video stream when it is opened.

    time_base: seconds per tick. pts_modulus: ticks after which raw PTS start again, None if they never do.
    reorder_depth: the decoder's (`codec_context.reorder_depth`). hidden_frames: VP9 and AV1, where packets and
    pictures are not one to one, so that losses are counted by decoder errors and not by tags. segment_ns: target
    duration of a live source that comes in segments (HLS), 0 for others. sample_rate: in Hz, of a source of sound, its
    frames are pieces of that (and its sides 1); 0: pictures. sample_aspect: width by height of a pixel, as it is shown.
    """

    source_id: str
    kind: SourceKind
    time_base: Fraction
    width: int
    height: int
    codec: str = ""
    pts_modulus: int | None = None
    average_rate: Fraction | None = None
    reorder_depth: int = 0
    hidden_frames: bool = False
    pts_source: PtsSource = PtsSource.CONTAINER
    segment_ns: int = 0
    sample_rate: int = 0
    sample_aspect: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        _expect(bool(self.source_id), "StreamInfo.source_id", "a non-empty name", self.source_id)
        _expect(self.time_base > 0, "StreamInfo.time_base", "seconds per tick > 0", self.time_base)
        _expect(self.width > 0 and self.height > 0, "StreamInfo size", "positive sides", (self.width, self.height))
        _expect(self.reorder_depth >= 0, "StreamInfo.reorder_depth", ">= 0", self.reorder_depth)
        _expect(self.segment_ns >= 0, "StreamInfo.segment_ns", ">= 0", self.segment_ns)
        _expect(self.sample_aspect > 0, "StreamInfo.sample_aspect", "> 0", self.sample_aspect)
        _expect(self.sample_rate >= 0, "StreamInfo.sample_rate", ">= 0", self.sample_rate)
        _expect(self.pts_modulus is None or self.pts_modulus > 1, "StreamInfo.pts_modulus", "> 1", self.pts_modulus)


@dataclass(frozen=True, slots=True)
class TimelineRecord:
    """The claim of an epoch (topic `timelines`). With it a stranger computes pts_ns from raw PTS by the formula.

    ingest_id names the claimant. u0 is the unwrapped PTS, in ticks, of the epoch's first accepted picture.
    """

    source_id: str
    epoch: int
    ingest_id: str
    time_base: Fraction
    u0: int
    first_raw_pts: int | None
    pts_modulus: int | None
    pipelines: tuple[str, ...]

    def __post_init__(self) -> None:
        _expect(self.epoch >= 0, "TimelineRecord.epoch", ">= 1, or 0 while it is not yet claimed", self.epoch)
        _expect(len(self.pipelines) >= 1, "TimelineRecord.pipelines", "at least one pipeline", self.pipelines)
        _expect(len(set(self.pipelines)) == len(self.pipelines), "TimelineRecord.pipelines", "unique", self.pipelines)


@dataclass(frozen=True, slots=True)
class Frame:
    """One accepted frame: a record of `frames` with a place in the timeline.

    pts: unwrapped ticks of `time_base`; raw_pts: what the container said, None if it said nothing.
    arrival_mono_ns: when this role received it, by its own monotonic clock; it never crosses a process.
    dts: of the packet that gave the picture, for information only; nothing is keyed or ordered by it.
    analyse False: left out of inference on purpose (not_sampled), yet still shown.
    """

    source_id: str
    epoch: int
    frame_seq: int
    pts_ns: int
    pts: int
    time_base: Fraction
    pipelines: tuple[str, ...]
    arrival_mono_ns: int
    picture: Picture | None = None
    analyse: bool = True
    raw_pts: int | None = None
    pts_source: PtsSource = PtsSource.CONTAINER
    capture_ns: int | None = None
    capture_quality: CaptureQuality = CaptureQuality.NONE
    dts: int | None = None

    def __post_init__(self) -> None:
        _expect(self.epoch >= 1, "Frame.epoch", ">= 1", self.epoch)
        _expect(self.frame_seq >= 0, "Frame.frame_seq", ">= 0", self.frame_seq)
        _expect(type(self.pts_ns) is int and self.pts_ns >= 0, "Frame.pts_ns", "an integer >= 0", self.pts_ns)

    @property
    def key(self) -> FrameKey:
        """What results are joined by."""
        return FrameKey(self.source_id, self.epoch, self.pts_ns)

    def ledger_key(self, pipeline: str) -> LedgerKey:
        """The place of this frame in the ledger of one pipeline."""
        return LedgerKey(self.source_id, self.epoch, self.frame_seq, pipeline)


MAX_RUN = 100_000  # places of one run: an hour of a source, and no room for a forged one to fill a memory


@dataclass(frozen=True, slots=True)
class DroppedRun:
    """A run of frames dropped at ingest for one reason, first_seq to last_seq inclusive: one record of `frames`."""

    source_id: str
    epoch: int
    first_seq: int
    last_seq: int
    reason: DropReason
    pipelines: tuple[str, ...]

    def __post_init__(self) -> None:
        _expect(0 <= self.first_seq <= self.last_seq, "DroppedRun", "0 <= first_seq <= last_seq", self)


FrameRecord = Frame | DroppedRun


@dataclass(frozen=True, slots=True)
class FrameResult:
    """What a pipeline found on one frame.

    payload_hash: over the canonical JSON of the task's fields alone (`serving.align.merge.payload_hash`), so that
    track ids, timings and attempts never decide a merge.
    """

    model: str
    model_version: int
    task: str
    result: TaskResult
    payload_hash: str
    timings_ms: tuple[tuple[str, float], ...] = ()

    @property
    def detections(self) -> Detections | None:
        """The boxes, where the task gives boxes."""
        return self.result if isinstance(self.result, Detections) else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One candidate for the end of a ledger key: result, dropped(reason) or dead_letter(reason)."""

    status: Status
    attempt: int = 1
    result: FrameResult | None = None
    drop_reason: DropReason | None = None
    dead_reason: DeadReason | None = None

    def __post_init__(self) -> None:
        given = (self.result is not None, self.dead_reason is not None, self.drop_reason is not None)
        wanted = tuple(self.status is s for s in (Status.RESULT, Status.DEAD_LETTER, Status.DROPPED))
        _expect(given == wanted, "Outcome", f"what {self.status.name} needs and nothing else", given)

    @classmethod
    def of_result(cls, result: FrameResult, attempt: int = 1) -> Outcome:
        """The frame was analysed."""
        return cls(Status.RESULT, attempt, result=result)

    @classmethod
    def dropped(cls, reason: DropReason, attempt: int = 1) -> Outcome:
        """The frame was left out, and why."""
        return cls(Status.DROPPED, attempt, drop_reason=reason)

    @classmethod
    def dead_letter(cls, reason: DeadReason, attempt: int = 1) -> Outcome:
        """The frame was given up, and why."""
        return cls(Status.DEAD_LETTER, attempt, dead_reason=reason)

    @property
    def reason(self) -> str:
        """The word of the closed list, '' for a result."""
        reason = self.drop_reason or self.dead_reason
        return reason.value if reason else ""


@dataclass(frozen=True, slots=True)
class Posting:
    """An outcome on its way (a record of `results`). pts_ns must be the frame's; None where the frame has none."""

    key: LedgerKey
    pts_ns: int | None
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Overlay:
    """What one pipeline says about one shown frame.

    outcome: what was known at release, None if nothing. boxes: what to draw, measured and filled.
    origin: uint8 [n], values of `Origin`, one for each box.
    """

    pipeline: str
    outcome: Outcome | None
    boxes: Detections
    origin: PixelArray

    @property
    def missing(self) -> bool:
        """The pipeline had given no result when the frame was shown."""
        return self.outcome is None or self.outcome.result is None


@dataclass(frozen=True, slots=True)
class AlignedFrame:
    """A frame at the moment it is shown, with what may be drawn on it.

    out_pts_ns: position in the output, continuous over epochs. deadline_mono_ns: None for files and jobs.
    discontinuity: the first frame of an epoch other than the output's first.
    """

    frame: Frame
    out_pts_ns: int
    overlays: tuple[Overlay, ...]
    released_mono_ns: int
    deadline_mono_ns: int | None = None
    discontinuity: bool = False
