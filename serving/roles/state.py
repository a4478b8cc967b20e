"""What a role says of each of its sources, once a second: for `/v1/streams`, for the console, for nobody's decision.

The gateway reads these fields where they are there (docs/redis.md); a role may say more:

- ingest: epoch, fps_in, frames, connected, error
- worker: fps_analysed, analysed
- mixer: epoch, shown, late, missing, mismatched
- accountant: epoch, accepted, results, dropped {reason: count}, dead {reason: count}, in_flight
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from serving.ports_index import ROLES, Json, StateSink
from serving.streams.mix_role import MixRole

MAX_STATE_BYTES = 16 << 10
SILENT_MS = 5000  # without a picture for so long a source is not connected


def publish_state(index: StateSink | None, role: str, source_id: str, fields: Mapping[str, Any]) -> None:
    """Say `fields` of a source, as JSON. Returns at once, does nothing without an index, and never fails for one that
    is away. ValueError for a role that is none and for fields that are not JSON of at most 16 KiB."""
    if role not in ROLES:
        raise ValueError(f"publish_state.role: expected one of {ROLES}, got {role!r}")
    if index is None:
        return
    try:
        size = len(json.dumps(fields, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"publish_state of {role}: expected plain JSON values: {error}") from error
    if size > MAX_STATE_BYTES:
        raise ValueError(f"publish_state of {role}: expected at most {MAX_STATE_BYTES} bytes, got {size}")
    index.put_state(role, source_id, fields)


def ingest_state(status: Json, error: str = "") -> dict[str, Any]:
    """The fields of ingest, out of what the process that reads a source says of it (`serving.roles.ingest_child`)."""
    age_ms = status.get("picture_age_ms")
    return {
        "epoch": status.get("epoch") or None,
        "fps_in": status.get("fps_in"),
        "frames": status.get("frames", 0),
        "connected": type(age_ms) is int and age_ms < SILENT_MS,
        "error": error[:500],
    }


def shown_fields(role: MixRole, epoch: int) -> dict[str, Any]:
    """What `/v1/streams` tells of a mixed source (docs/redis.md). missing: analysed frames that were shown without."""
    mixed, counted = role.mixer.counters, role.counters
    return {
        "epoch": epoch or None,
        "shown": counted.frames,
        "late": mixed.late,
        "missing": counted.missing.total(),
        "mismatched": mixed.mismatched,
    }
