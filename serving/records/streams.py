"""Topic `streams` (compacted): the sources that are registered. key: source_id; a tombstone takes a source away."""

from __future__ import annotations

import re
from dataclasses import dataclass

from serving.ports_log import Headers
from serving.records.fields import Encoded, Fields, check_schema, json_bytes, name_of, text_of, wrong

TOPIC = "streams"
SCHEMA = 1
MAX_ADDRESS = 2048
_PASSWORD = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/?#@]*:(?P<password>[^/?#@]*)@")
_SECRET_NAME = re.compile(r"\{[A-Z][A-Z0-9_]*\}\Z")


@dataclass(frozen=True, slots=True)
class StreamMessage:
    """One source. address: secrets by name only, as in rtsp://admin:{CAMERA_1_PASSWORD}@host/; ingest resolves them.

    every: analyse each n-th frame. delay_ms: D. mixed: somebody looks at the pictures, so every frame carries one.
    lease_s: a live source without a picture for so long ends; None: never.
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


def encode_stream(message: StreamMessage) -> Encoded:
    """Raises RecordInvalid: a bad name, or a password in the address."""
    name_of(message.source_id, TOPIC, "source_id")
    _check_address(message.address)
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
    }
    return Encoded(message.source_id.encode(), json_bytes(document), ())


def decode_stream(key: bytes | None, value: bytes | None, headers: Headers = ()) -> StreamMessage | None:
    """None: the source was taken away. Raises RecordInvalid."""
    source_id = name_of(text_of(key, TOPIC, "key"), TOPIC, "key")
    if value is None:
        return None
    fields = Fields.of_json(TOPIC, value)
    check_schema(fields, SCHEMA)
    if fields.name("source_id") != source_id:
        fields.wrong("source_id", f"the record's key {source_id!r}")
    address = fields.text("address", limit=MAX_ADDRESS)
    _check_address(address)
    roi = fields.text("roi", "", 64)
    if roi and not re.fullmatch(r"[0-9]{1,5}(,[0-9]{1,5}){3}", roi):
        fields.wrong("roi", "x1,y1,x2,y2 in source pixels")
    return StreamMessage(
        source_id,
        address,
        fields.names("pipelines"),
        fields.integer("every", 1, 1000, 1),
        fields.integer("delay_ms", 0, 60_000, 250),
        fields.flag("mixed", False),
        roi,
        fields.integer("max_fps", 1, 1000, 60),
        fields.integer("lease_s", 1, 86_400, None),
    )


def _check_address(address: str) -> None:
    found = _PASSWORD.match(address)
    if found and found["password"] and not _SECRET_NAME.match(found["password"]):
        wrong(TOPIC, "address", "a password by its name, such as {CAMERA_1_PASSWORD}", "(not shown)")
    if not address or any(ord(c) < 32 for c in address):
        wrong(TOPIC, "address", "an address without control characters", address)
