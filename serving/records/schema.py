"""docs/results.schema.json: the one result document, for editors, strangers and tests.

`python -m serving.records.schema > docs/results.schema.json`; a test compares the two. What `decode_result` takes, the
schema takes.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from serving.frames import CaptureQuality, DeadReason, DropReason, PtsSource
from serving.records.fields import INT64, MAX_EPOCH, NAME
from serving.records.results import MAX_EMBEDDING, REQUIRED, SCHEMA

_NAME = {"type": "string", "pattern": "^" + NAME.pattern.removesuffix(r"\Z") + "$"}
_OR_NULL: Any = {"type": ["integer", "null"], "minimum": -INT64, "maximum": INT64 - 1}
_PIXELS = {"type": "integer", "minimum": 1, "maximum": 1 << 16}


def _words(kind: Any) -> list[str]:
    return [word.value for word in kind]


def _rows(required: dict[str, Any], optional: dict[str, Any], about: str) -> dict[str, Any]:
    row = {"type": "object", "required": list(required), "properties": required | optional}
    return {"type": "array", "maxItems": 10_000, "description": about, "items": row}


def _detections() -> dict[str, Any]:
    return _rows(
        {
            "xyxy": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
            "confidence": {"type": "number", "minimum": 0, "maximum": 1},
            "class_id": {"type": "integer", "minimum": 0},
        },
        {
            "label": {"type": ["string", "null"]},
            "track_id": {
                "type": ["integer", "null"],
                "minimum": 0,
                "description": "left out where a box has no confirmed track",
            },
            "origin": {"enum": ["measured", None]},
        },
        "boxes in pixels of the source's picture, x1 y1 x2 y2, best first; an empty list is a normal answer",
    )


def _targets() -> dict[str, Any]:
    return _rows(
        {
            "target_id": {"type": "integer", "minimum": 1},
            "state": {"enum": ["tracking", "lost"]},
            "score": {"type": "number", "minimum": 0, "maximum": 1},
            "xyxy": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
        },
        {},
        "task single_object_tracking: each target's state; while it is lost, xyxy is where it was seen last",
    )


def _sound() -> dict[str, Any]:
    times = {name: {"type": "integer", "minimum": 0} for name in ("start_pts_ns", "end_pts_ns")}
    event: dict[str, Any] = {
        "event_id": {"type": "integer", "minimum": 1, "description": "the same event keeps it from window to window"},
        "class_id": {"type": "integer", "minimum": 0},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "open": {"type": "boolean", "description": "goes on in the next window"},
    }
    return {
        "sound": {
            "type": "object",
            "required": [*times, "windows"],
            "properties": times | {"windows": {"type": "integer", "minimum": 0}},
            "description": "task audio: what was heard, on the timeline of pts_ns",
        },
        "events": _rows(event | times, {"label": {"type": ["string", "null"]}}, "task audio, by their beginning"),
    }


def _about_the_frame() -> dict[str, Any]:
    return {
        "schema": {"const": SCHEMA},
        "source_id": _NAME,
        "epoch": {"type": "integer", "minimum": 1, "maximum": MAX_EPOCH},
        "frame_seq": {"type": "integer", "minimum": 0, "description": "place in the epoch, without holes"},
        "pipeline": _NAME,
        "pts": {
            "type": ["integer", "null"],
            "description": "unwrapped ticks of time_base; null: the frame has no time",
        },
        "time_base": {"type": ["string", "null"], "pattern": "^[1-9][0-9]*/[1-9][0-9]*$"},
        "pts_ns": {
            "type": ["integer", "null"],
            "minimum": 0,
            "description": "since the epoch's first picture; the key",
        },
        "raw_pts": _OR_NULL | {"description": "the container's own PTS, as it stood there"},
        "dts": _OR_NULL | {"description": "for information only; nothing is joined or ordered by it"},
        "pts_source": {"enum": [*_words(PtsSource), None]},
        "capture_ns": _OR_NULL | {"description": "estimated wall-clock time of capture, for display only"},
        "capture_quality": {"enum": [*_words(CaptureQuality), None]},
    }


def _about_the_answer() -> dict[str, Any]:
    return {
        "outcome": {"enum": ["result", "dropped", "dead_letter"]},
        "reason": {"enum": [*_words(DropReason), *_words(DeadReason), None]},
        "attempt": {"type": "integer", "minimum": 1},
        "model": _NAME,
        "model_version": {"type": "string", "pattern": "^[1-9][0-9]*$"},
        "task": _NAME,
        "certificate_id": {"type": "string", "maxLength": 64},
        "image": {
            "type": ["object", "null"],
            "required": ["width", "height"],
            "properties": {"width": _PIXELS, "height": _PIXELS},
        },
        "timings_ms": {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}},
        "detections": _detections(),
        "classes": _rows(
            {
                "class_id": {"type": "integer", "minimum": -1, "description": "-1: unknown"},
                "score": {"type": "number", "minimum": 0, "maximum": 1},
            },
            {"label": {"type": ["string", "null"]}},
            "best first",
        ),
        "embedding": {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": MAX_EMBEDDING},
        "outputs": {"type": "array", "items": {"type": "object"}, "description": "task raw: names and shapes"},
        **_sound(),
        "targets": _targets(),
    }


def _when(outcome: str, then: dict[str, Any]) -> dict[str, Any]:
    return {"if": {"properties": {"outcome": {"const": outcome}}}, "then": then}


def results_schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12."""
    null = {"type": "null"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:lockstep:results:{SCHEMA}",
        "title": "A result of one pipeline on one frame",
        "description": "One record of the topic `results`, one line of `lockstep run --results`.",
        "type": "object",
        "required": list(REQUIRED),
        "properties": _about_the_frame() | _about_the_answer(),
        "allOf": [
            _when("result", {"required": ["timings_ms"], "properties": {"reason": null}}),
            _when("dropped", {"properties": {"reason": {"enum": _words(DropReason)}}}),
            _when("dead_letter", {"properties": {"reason": {"enum": _words(DeadReason)}}}),
            {
                "if": {"properties": {"pts_ns": null}},
                "then": {"properties": {"pts": null, "time_base": null}},
                "else": {"properties": {"pts": {"type": "integer"}, "time_base": {"type": "string"}}},
            },
        ],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(results_schema(), indent=2, ensure_ascii=False) + "\n")
