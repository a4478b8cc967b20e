"""Topic `frames`: one record for each place of a timeline's ledger, or for a run of places dropped for one reason.

key: source_id. value: a JPEG, or nothing; of a source of sound a piece of it, WAV or FLAC, as its content type says.
Everything else stands in headers, so that a reader who only keeps accounts never touches a picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from serving.frames import (
    MAX_RUN,
    CaptureQuality,
    DroppedRun,
    DropReason,
    Frame,
    FrameRecord,
    Picture,
    PtsSource,
    is_sound,
)
from serving.ports_log import MAX_RECORD_BYTES, Headers
from serving.records import cloud_events
from serving.records.fields import INT64, MAX_EPOCH, Encoded, Fields, fraction_text, name_of, text_of, wrong

TOPIC = "frames"
MAX_PIXELS = 1 << 26  # of a source: 8192 x 8192
OWN_HEADERS = (
    "epoch", "frame_seq", "last_seq", "pts", "time_base", "pts_ns", "raw_pts", "dts", "pts_source", "capture_ns",
    "capture_quality", "pipelines", "analyse", "drop_reason", "width", "height", "scale",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FrameMessage:
    """A record of `frames`.

    width, height: of the source's picture in pixels, 0 where nothing is known of it. scale: size of the payload's
    picture over that, below 1 where it had to be made smaller to fit; boxes are always in source pixels.
    traceparent: W3C Trace Context or ''.
    """

    record: FrameRecord
    width: int = 0
    height: int = 0
    scale: Fraction = Fraction(1)
    traceparent: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 1 or self.width < 0 or self.height < 0:
            raise ValueError(f"FrameMessage: expected scale in (0, 1] and sides >= 0, got {self}")
        if self.width * self.height > MAX_PIXELS or (self.scale < 1 and not self.width * self.height):
            raise ValueError(f"FrameMessage: expected <= {MAX_PIXELS} pixels, sides where scale is < 1, got {self}")


def encode_frame(message: FrameMessage, payload: bytes | None = None) -> Encoded:
    """payload: the JPEG of an analysed or shown frame, or a piece of sound. ValueError for one on a dropped frame."""
    record = message.record
    source_id = name_of(record.source_id, TOPIC, "source_id")
    first = record.first_seq if isinstance(record, DroppedRun) else record.frame_seq
    if isinstance(record, DroppedRun) and record.last_seq - record.first_seq >= MAX_RUN:
        raise ValueError(f"{TOPIC}: expected at most {MAX_RUN} frames in one record, got {record}")
    if payload and isinstance(record, DroppedRun):
        raise ValueError(f"{TOPIC}: expected no payload for frames dropped at ingest, got {len(payload)} bytes")
    values = {
        "epoch": record.epoch,
        "frame_seq": first,
        "pipelines": ",".join(name_of(name, TOPIC, "pipelines") for name in record.pipelines),
        **(_of_run(record) if isinstance(record, DroppedRun) else _of_frame(record, message)),
    }
    own = tuple((name, str(value).encode()) for name, value in values.items() if value is not None)
    event_id = f"{record.epoch}/{first}"
    kind = _kind_of(payload)
    events = cloud_events.attributes("frame", source_id, event_id, kind, message.traceparent)
    return Encoded(source_id.encode(), payload or b"", (*own, *events))


def _kind_of(payload: bytes | None) -> str:
    if not payload:
        return "application/octet-stream"
    return ("audio/flac" if payload[:4] == b"fLaC" else "audio/wav") if is_sound(payload) else "image/jpeg"


def _of_run(run: DroppedRun) -> dict[str, object]:
    return {"last_seq": run.last_seq, "drop_reason": run.reason.value}


def _of_frame(frame: Frame, message: FrameMessage) -> dict[str, object]:
    return {
        "pts": frame.pts,
        "time_base": fraction_text(frame.time_base),
        "pts_ns": frame.pts_ns,
        "raw_pts": frame.raw_pts,
        "dts": frame.dts,
        "pts_source": frame.pts_source.value,
        "capture_ns": frame.capture_ns,
        "capture_quality": frame.capture_quality.value,
        "analyse": "true" if frame.analyse else "false",
        "width": message.width or None,
        "height": message.height or None,
        "scale": fraction_text(message.scale) if message.scale != 1 else None,
    }


def decode_frame(key: bytes | None, value: bytes | None, headers: Headers, arrival_mono_ns: int) -> FrameMessage:
    """Raises RecordInvalid. arrival_mono_ns: when this role read it, by its own monotonic clock.

    What does not decode is not the record's fault: that is found out, and counted, where it is decoded.
    """
    source_id = name_of(text_of(key, TOPIC, "key"), TOPIC, "key")
    fields = Fields.of_headers(TOPIC, headers, (*OWN_HEADERS, *cloud_events.HEADERS))
    cloud_events.check(fields, "frame")
    if value is not None and len(value) > MAX_RECORD_BYTES:
        wrong(TOPIC, "value", f"at most {MAX_RECORD_BYTES} bytes", len(value))
    dropped = fields.has("drop_reason")
    record = _run(source_id, fields, value) if dropped else _frame(source_id, fields, value, arrival_mono_ns)
    _check_sound(fields, value)
    return FrameMessage(record, *_size(fields), fields.traceparent())


def _size(fields: Fields) -> tuple[int, int, Fraction]:
    """Pictures are enlarged to what these say, so a forged record must not ask for a memory full."""
    width, height = (fields.integer(side, 1, 1 << 16, 0) for side in ("width", "height"))
    scale = fields.fraction("scale", Fraction(1))
    if scale > 1:
        fields.wrong("scale", "at most 1/1")
    if scale < 1 and not (width and height):
        fields.wrong("scale", "width and height of the source beside it")
    if width * height > MAX_PIXELS:
        fields.wrong("width", f"at most {MAX_PIXELS} pixels with height {height}")
    return width, height, scale


def _check_sound(fields: Fields, value: bytes | None) -> None:
    """What is said to be sound is WAV or FLAC, what is said to be a picture is not, and sound has no sides."""
    kind, heard = fields.text("content-type", ""), is_sound(value)
    if kind.startswith("audio/") and not heard:
        wrong(TOPIC, "value", f"WAV or FLAC, as content-type says {kind}", f"{len(value or b'')} other bytes")
    if heard and kind and not kind.startswith(("audio/", "application/octet-stream")):
        fields.wrong("content-type", "audio/wav or audio/flac, as the value is sound")
    if heard and (name := next((name for name in ("width", "height", "scale") if fields.has(name)), "")):
        fields.wrong(name, "nothing, as the value is sound")


def _run(source_id: str, fields: Fields, value: bytes | None) -> DroppedRun:
    if value:
        wrong(TOPIC, "value", "nothing, as the frame was dropped", f"{len(value)} bytes")
    first = fields.integer("frame_seq", 0)
    return DroppedRun(
        source_id,
        fields.integer("epoch", 1, MAX_EPOCH),
        first,
        fields.integer("last_seq", first, first + MAX_RUN - 1, default=first),
        fields.choice("drop_reason", DropReason),
        fields.names("pipelines"),
    )


def _frame(source_id: str, fields: Fields, value: bytes | None, arrival_mono_ns: int) -> Frame:
    if fields.has("last_seq"):
        fields.wrong("last_seq", "nothing where no drop_reason stands")
    return Frame(
        source_id=source_id,
        epoch=fields.integer("epoch", 1, MAX_EPOCH),
        frame_seq=fields.integer("frame_seq", 0),
        pts_ns=fields.integer("pts_ns", 0),
        pts=fields.integer("pts", -INT64 + 1),
        time_base=fields.fraction("time_base"),
        pipelines=fields.names("pipelines"),
        arrival_mono_ns=arrival_mono_ns,
        picture=Picture(encoded=value) if value else None,
        analyse=fields.flag("analyse", True),
        raw_pts=fields.integer("raw_pts", -INT64 + 1, default=None),
        pts_source=fields.choice("pts_source", PtsSource, PtsSource.CONTAINER),
        capture_ns=fields.integer("capture_ns", default=None),
        capture_quality=fields.choice("capture_quality", CaptureQuality, CaptureQuality.NONE),
        dts=fields.integer("dts", default=None),
    )


def places(record: FrameRecord) -> Iterator[int]:
    """Every frame_seq the record gives a place to."""
    if isinstance(record, Frame):
        return iter((record.frame_seq,))
    return iter(range(record.first_seq, record.last_seq + 1))
