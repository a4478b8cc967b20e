"""Topic `streams` (compacted): the sources that are registered. key: source_id; the newest record is the truth.

A source is taken away by a record whose `state` is `removed`, which stays so that its ledger can still be named, or by
a tombstone, which forgets it. Both end its ingest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import ValidationError

from serving.ports_log import Headers
from serving.records.fields import MAX_EPOCH, Encoded, Fields, check_schema, json_bytes, name_of, text_of, wrong
from serving.spec import SoundSpec
from serving.targets import MOST_TARGETS, Aim, TargetInvalid

TOPIC = "streams"
SCHEMA = 1
MAX_ADDRESS = 2048
MAX_PATH = 1024
SOUND = ("sample_rate", "window", "hop")
_PASSWORD = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/?#@]*:(?P<password>[^/?#@]*)@")
_SECRET = "(?:token|key|pass|pwd|secret|sig|auth)"
_SECRET_KEY = re.compile(_SECRET, re.IGNORECASE)
# as cameras have it: /user=admin&password=...&channel=1 or /user=admin_password=..._channel=1
_SECRET_IN_PATH = re.compile(_SECRET + r"[^=&;/{}]*=(.*?)(?=[&;/]|_[a-z]+=|\Z)", re.IGNORECASE)
_SECRET_NAME = re.compile(r"\{[A-Z][A-Z0-9_]*\}\Z")
_ROI = re.compile(r"[0-9]{1,5}(,[0-9]{1,5}){3}\Z", re.ASCII)
_PUBLISH = re.compile(r"(?i)(rtsp|rtsps|rtmp|rtmps)://[^/?#]+")


class StreamState(Enum):
    """Whether a registered source is to be read."""

    ACTIVE = "active"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class StreamMessage:
    """One source: how it is read, what becomes of its frames, and what is made of its mixed video.

    Read by ingest: address (secrets by name only, as in rtsp://admin:{CAMERA_1_PASSWORD}@host/; ingest resolves them),
    pipelines (1..n models or pipelines, fixed for an epoch: a change opens a new one), every (analyse each n-th
    frame), max_fps and delay_ms (a live source sheds what is more), mixed (frames that are not analysed carry a picture
    too), lease_s (a live source without a picture for so many seconds ends; None: never), state, sound (the address's
    sound is read, not its pictures, in pieces for models that hear so: rate, window, hop; None: pictures).
    Read by workers: track (a tracker such as bytetrack, "": none), roi ("x1,y1,x2,y2" in source pixels: only this part
    is analysed, "": all of it), mask (path of a picture of the source's size; black is not analysed), scenario
    (named thresholds of the model's spec, "": default), delay_ms, mixed, max_fps (how old a frame may grow), targets
    (objects to follow, each a box in one picture of an epoch).
    Read by mixers: delay_ms (presentation delay D, milliseconds), mixed (somebody looks at the pictures: every frame
    carries one and HLS is written), recording (an MP4 of the mixed video beside the HLS), publish (an RTSP or RTMP
    address that the mixed video is sent to as well, secrets by name; "": none), captions (a banner, and a name at each
    box; False: boxes only, so that no text hides a part of the picture).
    supervised: False where a process of its own reads it (`lockstep ingest NAME ADDRESS`, or a stranger); then no
    ingest supervisor starts one.
    """

    source_id: str
    address: str
    pipelines: tuple[str, ...]
    every: int = 1
    delay_ms: int = 250
    mixed: bool = False
    roi: str = ""
    max_fps: int = 60
    lease_s: int | None = None
    track: str = ""
    mask: str = ""
    scenario: str = ""
    recording: bool = False
    publish: str = ""
    supervised: bool = True
    state: StreamState = StreamState.ACTIVE
    captions: bool = True
    targets: tuple[Aim, ...] = ()
    sound: SoundSpec | None = None

    @property
    def active(self) -> bool:
        """It is to be read."""
        return self.state is StreamState.ACTIVE


def encode_stream(message: StreamMessage) -> Encoded:
    """Raises RecordInvalid: a bad name, a password in an address, a roi or publish address that is none."""
    name_of(message.source_id, TOPIC, "source_id")
    document = {
        "schema": SCHEMA,
        "source_id": message.source_id,
        "address": message.address,
        "pipelines": list(message.pipelines),
        "every": message.every,
        "delay_ms": message.delay_ms,
        "mixed": message.mixed,
        "roi": message.roi,
        "max_fps": message.max_fps,
        "lease_s": message.lease_s,
        "track": message.track,
        "mask": message.mask,
        "scenario": message.scenario,
        "recording": message.recording,
        "publish": message.publish,
        "captions": message.captions,
        "supervised": message.supervised,
        "state": message.state.value,
        "targets": [target_document(aim) for aim in message.targets],
    }
    if message.sound is not None:
        document["sound"] = {name: getattr(message.sound, name) for name in SOUND}
    encoded = Encoded(message.source_id.encode(), json_bytes(document), ())
    decode_stream(*encoded)  # what nobody could read is not written
    return encoded


def target_document(aim: Aim) -> dict[str, Any]:
    """A target as the record and the routes show it."""
    return {"target_id": aim.target_id, "xyxy": list(aim.xyxy), "epoch": aim.epoch, "pts_ns": aim.pts_ns}


def encode_forgotten_stream(source_id: str) -> Encoded:
    """The tombstone of a source: compaction takes every record of it away. Raises RecordInvalid: a bad name."""
    return Encoded(name_of(source_id, TOPIC, "source_id").encode(), None, ())


def decode_stream(key: bytes | None, value: bytes | None, headers: Headers = ()) -> StreamMessage | None:
    """None: the source was taken away and is forgotten. Raises RecordInvalid."""
    source_id = name_of(text_of(key, TOPIC, "key"), TOPIC, "key")
    if value is None:
        return None
    fields = Fields.of_json(TOPIC, value)
    check_schema(fields, SCHEMA)
    if fields.name("source_id") != source_id:
        fields.wrong("source_id", f"the record's key {source_id!r}")
    return StreamMessage(
        source_id,
        _address(fields),
        fields.names("pipelines"),
        fields.integer("every", 1, 1000, 1),
        fields.integer("delay_ms", 0, 60_000, 250),
        fields.flag("mixed", False),
        _roi(fields),
        fields.integer("max_fps", 1, 1000, 60),
        fields.integer("lease_s", 1, 86_400, None),
        _optional_name(fields, "track"),
        _path(fields, "mask"),
        _optional_name(fields, "scenario"),
        fields.flag("recording", False),
        _publish(fields),
        fields.flag("supervised", True),
        fields.choice("state", StreamState, StreamState.ACTIVE),
        fields.flag("captions", True),
        _targets(fields),
        _sound(fields),
    )


def _address(fields: Fields) -> str:
    """Text without a password; what is wrong with it is said without showing it."""
    address = fields.text("address", "", limit=MAX_ADDRESS)
    _without_password(address, "address")
    if not address or any(ord(c) < 32 for c in address):
        fields.wrong("address", "an address without control characters")
    return address


def _publish(fields: Fields) -> str:
    address = fields.text("publish", "", limit=MAX_ADDRESS)
    _without_password(address, "publish")
    if address and (not _PUBLISH.match(address) or any(ord(c) < 32 for c in address)):
        fields.wrong("publish", "an rtsp, rtsps, rtmp or rtmps address")
    return address


def _without_password(address: str, name: str) -> None:
    found = _PASSWORD.match(address)
    if found and found["password"] and not _SECRET_NAME.match(found["password"]):
        wrong(TOPIC, name, "a password by its name, such as {CAMERA_1_PASSWORD}", "(not shown)")


def check_secrets(address: str, name: str) -> None:
    """No secret in the open in query or path, where a password that is cut off by a slash counts as one. For whoever
    registers a source; what stands on the log is read all the same. Raises RecordInvalid."""
    try:
        parts = urlsplit(address)
        _ = parts.port
        query = parse_qsl(f"{parts.query}&{parts.fragment}", keep_blank_values=True)
    except ValueError:
        wrong(TOPIC, name, "an address such as rtsp://host:554/path", "(not shown)")
    values = [value for key, value in query if _SECRET_KEY.search(key)]
    if parts.netloc:
        values += _SECRET_IN_PATH.findall(unquote(parts.path))
    if any(value and not _SECRET_NAME.match(value) for value in values):
        wrong(TOPIC, name, "secrets in query and path by name, such as ?token={CAMERA_1_TOKEN}", "(not shown)")


def _roi(fields: Fields) -> str:
    roi = fields.text("roi", "", 64)
    if roi and not _ROI.match(roi):
        fields.wrong("roi", "x1,y1,x2,y2 in source pixels")
    return roi


def _targets(fields: Fields) -> tuple[Aim, ...]:
    rows = fields.rows("targets", MOST_TARGETS) if fields.has("targets") else []
    found = []
    for row in rows:
        x1, y1, x2, y2 = (int(v) for v in row.floats("xyxy", 4, 4))
        numbers = row.integer("target_id", 1), row.integer("epoch", 1, MAX_EPOCH), row.integer("pts_ns", 0)
        try:
            found.append(Aim(numbers[0], (x1, y1, x2, y2), *numbers[1:]))
        except TargetInvalid as error:
            row.wrong("xyxy", error.message)
    return tuple(found)


def _sound(fields: Fields) -> SoundSpec | None:
    if not fields.has("sound"):
        return None
    given = fields.object("sound")
    try:
        rate, window, hop = given.integer("sample_rate"), given.integer("window"), given.integer("hop", default=0)
        return SoundSpec(sample_rate=rate, window=window, hop=hop)
    except ValidationError as error:
        why = error.errors()[0]
        given.wrong(str(why["loc"][0]) if why["loc"] else "hop", why["msg"])


def _path(fields: Fields, name: str) -> str:
    path = fields.text(name, "", MAX_PATH)
    if any(ord(c) < 32 for c in path):
        fields.wrong(name, "a path without control characters")
    return path


def _optional_name(fields: Fields, name: str) -> str:
    return fields.name(name) if fields.text(name, "", 64) else ""
