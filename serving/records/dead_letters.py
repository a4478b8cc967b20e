"""Topic `dead_letter`: records that were given up, with their original bytes and headers, and why.

The original headers keep their names behind `original.`, so that a replay writes the record exactly as it was. Of a
value over the limit the first 64 kB are kept, with size and SHA-256 of all of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from serving.errors import LockstepError
from serving.frames import DeadReason
from serving.ports_log import MAX_RECORD_BYTES, Headers, LogRecord
from serving.records.fields import Encoded, Fields, wrong

TOPIC = "dead_letter"
KEPT_BYTES = 64 << 10
PREFIX = "original."
REASONS = tuple(reason.value for reason in DeadReason)
_OWN = ("topic", "partition", "offset", "reason", "error_code", "error", "size", "sha256", "no_value", "no_key")
_ROOM = 64 << 10  # for headers, key and framing, besides the value
MAX_KEY_BYTES = 16 << 10  # ours have 255 at most; a longer one is cut


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """record: as it was; its value may be cut (`whole` False). reason: poison, schema or retry_exhausted."""

    record: LogRecord
    reason: str
    error_code: str
    error: str = ""
    size: int = 0
    sha256: str = ""

    @classmethod
    def of(cls, record: LogRecord, reason: str, error: LockstepError) -> DeadLetter:
        """A record that failed with this error."""
        value = record.value or b""
        return cls(record, reason, error.code, error.message[:500], len(value), hashlib.sha256(value).hexdigest())

    @property
    def whole(self) -> bool:
        """Nothing of the value is missing, so that the record can be replayed."""
        return len(self.record.value or b"") == self.size


def encode_dead_letter(letter: DeadLetter) -> Encoded:
    """The record to write. ValueError for a reason that is none."""
    if letter.reason not in REASONS:
        raise ValueError(f"{TOPIC}.reason: expected one of {REASONS}, got {letter.reason!r}")
    record = letter.record
    value = record.value or b""
    kept = value if len(value) + _ROOM <= MAX_RECORD_BYTES else value[:KEPT_BYTES]
    own = {
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "reason": letter.reason,
        "error_code": letter.error_code,
        "error": letter.error,
        "size": str(letter.size),
        "sha256": letter.sha256,
        **({"no_value": "true"} if record.value is None else {}),
        **({"no_key": "true"} if record.key is None else {}),
    }
    headers = tuple((name, text.encode("utf-8", "backslashreplace")[:1024]) for name, text in own.items())
    return Encoded((record.key or b"")[:MAX_KEY_BYTES], kept, (*headers, *_originals(record.headers)))


def _originals(headers: Headers) -> Headers:
    """As many as fit: a forged record may carry megabytes of them."""
    kept: list[tuple[str, bytes]] = []
    room = _ROOM // 2
    for name, value in headers:
        room -= len(name.encode("utf-8", "surrogateescape")) + len(value) + 16
        if room < 0:
            break
        kept.append((PREFIX + name, value))
    return tuple(kept)


def decode_dead_letter(key: bytes | None, value: bytes | None, headers: Headers) -> DeadLetter:
    """Raises RecordInvalid."""
    fields = Fields.of_headers(TOPIC, tuple(h for h in headers if not h[0].startswith(PREFIX)), _OWN)
    reason = fields.text("reason")
    if reason not in REASONS:
        fields.wrong("reason", f"one of {REASONS}")
    size, digest = fields.integer("size", 0), fields.text("sha256")
    data = value or b""
    if len(data) == size and hashlib.sha256(data).hexdigest() != digest:
        wrong(TOPIC, "sha256", "the hash of the value", digest)
    originals = tuple((name[len(PREFIX) :], data) for name, data in headers if name.startswith(PREFIX))
    record = LogRecord(
        fields.text("topic"),
        fields.integer("partition", 0, 1 << 20),
        fields.integer("offset", 0),
        None if fields.flag("no_key", False) else key,
        None if fields.flag("no_value", False) else data,
        originals,
    )
    return DeadLetter(record, reason, fields.text("error_code"), fields.text("error", ""), size, digest)
