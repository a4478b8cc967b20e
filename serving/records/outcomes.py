"""Topic `outcomes` (compacted): what each ledger key is recorded as. Small: status, reason, attempt, hash, no payload.

key: source_id|epoch|frame_seq|pipeline, partition: that of the frame. After a record with closed nothing changes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from serving.frames import DeadReason, DropReason, FrameResult, LedgerKey, Outcome
from serving.ports_log import Headers
from serving.records.fields import MAX_EPOCH, Encoded, Fields, check_schema, json_bytes, name_of, text_of, wrong
from serving.types import TaskResult

TOPIC = "outcomes"
SCHEMA = 1
_HASH = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Elsewhere(TaskResult):
    """The answer lies on `results`; here only its hash is known."""


@dataclass(frozen=True, slots=True)
class OutcomeMessage:
    """key, outcome, closed as in `serving.align.OutcomeRecord`. pts_ns: None where the frame has none."""

    key: LedgerKey
    outcome: Outcome
    closed: bool = False
    pts_ns: int | None = None


def outcome_key(key: LedgerKey) -> bytes:
    """source_id|epoch|frame_seq|pipeline."""
    return f"{key.source_id}|{key.epoch}|{key.frame_seq}|{key.pipeline}".encode()


def encode_outcome(message: OutcomeMessage) -> Encoded:
    """Raises RecordInvalid for names that are none."""
    key, outcome, result = message.key, message.outcome, message.outcome.result
    name_of(key.source_id, TOPIC, "source_id")
    name_of(key.pipeline, TOPIC, "pipeline")
    document = {
        "schema": SCHEMA,
        "source_id": key.source_id,
        "epoch": key.epoch,
        "frame_seq": key.frame_seq,
        "pipeline": key.pipeline,
        "pts_ns": message.pts_ns,
        "outcome": outcome.status.name.lower(),
        "reason": outcome.reason or None,
        "attempt": outcome.attempt,
        "closed": message.closed,
    }
    if result is not None:
        document |= {"model": result.model, "model_version": str(result.model_version), "task": result.task}
        document |= {"payload_hash": result.payload_hash}
    return Encoded(outcome_key(key), json_bytes(document), ())


def decode_outcome(key: bytes | None, value: bytes | None, headers: Headers = ()) -> OutcomeMessage:
    """Raises RecordInvalid. The outcome of a result has `Elsewhere` in place of the answer."""
    fields = Fields.of_json(TOPIC, value)
    check_schema(fields, SCHEMA)
    ledger_key = LedgerKey(
        fields.name("source_id"),
        fields.integer("epoch", 1, MAX_EPOCH),
        fields.integer("frame_seq", 0),
        fields.name("pipeline"),
    )
    if text_of(key, TOPIC, "key").encode() != outcome_key(ledger_key):
        wrong(TOPIC, "key", outcome_key(ledger_key), key)
    return OutcomeMessage(
        ledger_key, _outcome(fields), fields.flag("closed"), fields.integer("pts_ns", 0, default=None)
    )


def _outcome(fields: Fields) -> Outcome:
    word, attempt = fields.text("outcome"), fields.integer("attempt", 1, 1000)
    if word == "dropped":
        return Outcome.dropped(fields.choice("reason", DropReason), attempt)
    if word == "dead_letter":
        return Outcome.dead_letter(fields.choice("reason", DeadReason), attempt)
    if word != "result" or fields.has("reason"):
        fields.wrong("outcome", "result without reason, dropped or dead_letter")
    digest = fields.text("payload_hash")
    if not _HASH.match(digest):
        fields.wrong("payload_hash", "64 hexadecimal digits")
    version = fields.version("model_version")
    return Outcome.of_result(
        FrameResult(fields.name("model"), version, fields.name("task"), Elsewhere(), digest), attempt
    )
