"""The merge of outcomes: the maximum of a total order, so it commutes, associates and may repeat (docs/alignment.md).

result > dead_letter > dropped; between results the higher model_version, then the lower attempt, then the smaller
payload hash; between drops, or dead letters, the reason that stands earlier in the closed list, then the lower attempt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np

from serving.frames import DeadReason, DropReason, Outcome, Status
from serving.types import Classification, Detections, Embedding, RawTensors, TaskResult

Rank = tuple[int, int, int, str]

_DROP_RANK = {reason: -place for place, reason in enumerate(DropReason)}
_DEAD_RANK = {reason: -place for place, reason in enumerate(DeadReason)}


def rank(outcome: Outcome) -> Rank:
    """The place of an outcome in the total order, without the payload hash; `merge` breaks its ties."""
    if outcome.result is not None:
        return Status.RESULT.value, outcome.result.model_version, -outcome.attempt, ""
    if outcome.dead_reason is not None:
        return Status.DEAD_LETTER.value, _DEAD_RANK[outcome.dead_reason], -outcome.attempt, ""
    assert outcome.drop_reason is not None
    return Status.DROPPED.value, _DROP_RANK[outcome.drop_reason], -outcome.attempt, ""


def merge(known: Outcome | None, new: Outcome) -> Outcome:
    """The greater of the two; `known` where they are equal, so that a replay changes nothing."""
    if known is None or known is new:
        return new
    first, second = rank(known), rank(new)
    if first != second:
        return known if first > second else new
    if known.result is None or new.result is None:
        return known
    return new if _tie_key(new) < _tie_key(known) else known


def _tie_key(outcome: Outcome) -> tuple[str, bytes]:
    """The hash decides; track ids stand behind it only so that equal payloads cannot depend on order."""
    assert outcome.result is not None
    boxes = outcome.result.detections
    ids = b"" if boxes is None or boxes.tracker_id is None else boxes.tracker_id.tobytes()
    return outcome.result.payload_hash, ids


def payload_hash(result: TaskResult) -> str:
    """SHA-256 over the canonical JSON of the task's fields: sorted keys, no spaces; no track ids, no timings."""
    text = json.dumps(task_fields(result), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def task_fields(result: TaskResult) -> Mapping[str, object]:
    """What a result says, as plain JSON values."""
    if isinstance(result, Detections):
        columns = result.xyxy.tolist(), result.confidence.tolist(), result.class_id.tolist()
        rows = [{"xyxy": b, "confidence": c, "class_id": k} for b, c, k in zip(*columns, strict=True)]
        return {"detections": rows}
    if isinstance(result, Classification):
        return {"class_id": result.class_id.tolist(), "score": result.score.tolist()}
    if isinstance(result, Embedding):
        return {"embedding": result.vector.tolist()}
    if isinstance(result, RawTensors):
        return {name: {"shape": list(a.shape), "sha256": _digest(a.tobytes())} for name, a in result.tensors.items()}
    names = getattr(result, "__dataclass_fields__", None)
    if names is None:
        raise TypeError(f"payload_hash: expected a dataclass of a task's fields, got {type(result).__name__}")
    return {name: _plain(getattr(result, name)) for name in names}


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
