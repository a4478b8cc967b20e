"""What stands in Redis, read strictly: whatever is not what we would have written is a miss."""

from __future__ import annotations

import json
from typing import Any

from serving.ports_index import Json, Place, place_of
from serving.records.fields import strict_json

MAX_VALUE_BYTES = 1 << 20


def dumps(document: Json) -> str:
    """Compact JSON; ValueError for NaN."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def document_of(value: Any) -> Json | None:
    """A JSON object that can be answered, or None: whatever else somebody put there is a miss, and is never
    unpickled."""
    if not isinstance(value, bytes) or len(value) > MAX_VALUE_BYTES:
        return None
    try:
        found = strict_json(value)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def place_of_member(member: bytes, epoch: int) -> Place | None:
    """`<pts_ns>:<pipeline>`."""
    pts, _, pipeline = member.decode("utf-8", "replace").partition(":")
    return Place(epoch, int(pts), pipeline) if pts.isascii() and pts.isdigit() and len(pts) < 20 else None


def place_or_none(document: Json | None) -> Place | None:
    """Where a document says it stands."""
    try:
        return place_of(document or {})
    except (KeyError, TypeError):
        return None


def is_number(member: bytes) -> bool:
    """Of an epoch or a minute."""
    return member.isdigit() and len(member) <= 10
