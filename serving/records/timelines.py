"""Topic `timelines` (compacted): the claim of each epoch, with all that a stranger needs to compute pts_ns.

key: source_id|epoch|ingest_id, partition: that of the source in `frames`. The first record with a number owns it
(docs/alignment.md). Its owner writes it once more, with `frames`, when the epoch has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from serving.frames import PtsSource, SourceKind, StreamInfo, TimelineRecord
from serving.ports_log import Headers
from serving.records.fields import (
    INT64,
    MAX_EPOCH,
    Encoded,
    Fields,
    check_schema,
    fraction_text,
    json_bytes,
    name_of,
    text_of,
    wrong,
)

TOPIC = "timelines"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class TimelineMessage:
    """claim: who owns the epoch. info: the stream as it was opened. frames: how many places it has, once it has ended.

    last: the epoch ended because the source did.
    """

    claim: TimelineRecord
    info: StreamInfo
    frames: int | None = None
    last: bool = False


def timeline_key(claim: TimelineRecord) -> bytes:
    """source_id|epoch|ingest_id."""
    return f"{claim.source_id}|{claim.epoch}|{claim.ingest_id}".encode()


def encode_timeline(message: TimelineMessage) -> Encoded:
    """Raises RecordInvalid for names that are none."""
    claim, info = message.claim, message.info
    for name, value in (("source_id", claim.source_id), ("ingest_id", claim.ingest_id)):
        name_of(value, TOPIC, name)
    document = {
        "schema": SCHEMA,
        "source_id": claim.source_id,
        "epoch": claim.epoch,
        "ingest_id": claim.ingest_id,
        "time_base": fraction_text(claim.time_base),
        "u0": claim.u0,
        "first_raw_pts": claim.first_raw_pts,
        "pts_modulus": claim.pts_modulus,
        "pipelines": list(claim.pipelines),
        "kind": info.kind.value,
        "width": info.width,
        "height": info.height,
        "codec": info.codec,
        "average_rate": fraction_text(info.average_rate) if info.average_rate else None,
        "reorder_depth": info.reorder_depth,
        "hidden_frames": info.hidden_frames,
        "segment_ns": info.segment_ns,
        "sample_rate": info.sample_rate or None,
        "pts_source": info.pts_source.value,
        "frames": message.frames,
        "last": message.last,
    }
    return Encoded(timeline_key(claim), json_bytes(document), ())


def encode_withdrawn_timeline(claim: TimelineRecord) -> Encoded:
    """The tombstone of a claim that came second: compaction may take the first one's older record away, and must not
    make this the first."""
    return Encoded(timeline_key(claim), None, ())


def decode_timeline(key: bytes | None, value: bytes | None, headers: Headers = ()) -> TimelineMessage:
    """Raises RecordInvalid."""
    fields = Fields.of_json(TOPIC, value)
    check_schema(fields, SCHEMA)
    time_base: Fraction = fields.fraction("time_base")
    modulus = fields.integer("pts_modulus", 2, default=None)
    claim = TimelineRecord(
        source_id=fields.name("source_id"),
        epoch=fields.integer("epoch", 1, MAX_EPOCH),
        ingest_id=fields.name("ingest_id"),
        time_base=time_base,
        u0=fields.integer("u0", -INT64 + 1),
        first_raw_pts=fields.integer("first_raw_pts", -INT64 + 1, default=None),
        pts_modulus=modulus,
        pipelines=fields.names("pipelines"),
    )
    if text_of(key, TOPIC, "key").encode() != timeline_key(claim):
        wrong(TOPIC, "key", timeline_key(claim), key)
    info = StreamInfo(
        source_id=claim.source_id,
        kind=fields.choice("kind", SourceKind),
        time_base=time_base,
        width=fields.integer("width", 1, 1 << 16),
        height=fields.integer("height", 1, 1 << 16),
        codec=fields.text("codec", "", 64),
        pts_modulus=modulus,
        average_rate=fields.fraction("average_rate", None),
        reorder_depth=fields.integer("reorder_depth", 0, 64, 0),
        hidden_frames=fields.flag("hidden_frames", False),
        pts_source=fields.choice("pts_source", PtsSource, PtsSource.CONTAINER),
        segment_ns=fields.integer("segment_ns", 0, default=0),
        sample_rate=fields.integer("sample_rate", 1, 1 << 20, None) or 0,
    )
    return TimelineMessage(claim, info, fields.integer("frames", 0, default=None), fields.flag("last", False))
