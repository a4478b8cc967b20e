"""JSON Schemas of the gateway's answers."""

from __future__ import annotations

from typing import Any

from serving.bundle import ModelBundle
from serving.gateway import errors

Schema = dict[str, Any]


def obj(properties: dict[str, Schema], *, optional: tuple[str, ...] = (), more: bool = False) -> Schema:
    """An object whose properties are all required but for `optional`; `more`: others may stand beside them."""
    required = [name for name in properties if name not in optional]
    schema: Schema = {"type": "object", "properties": properties, "required": required}
    return schema if more else {**schema, "additionalProperties": False}


def array(items: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": items}


TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
THRESHOLD: Schema = {"anyOf": [NUMBER, {"type": "object", "additionalProperties": NUMBER}]}
INTEGER: Schema = {"type": "integer"}
BOOLEAN: Schema = {"type": "boolean"}
UNIT: Schema = {"type": "number", "minimum": 0, "maximum": 1}

PROBLEM = obj(
    {
        "type": TEXT,
        "title": TEXT,
        "status": INTEGER,
        "detail": TEXT,
        "code": {"type": "string", "enum": list(errors.TABLE)},
        "request_id": TEXT,
        "hint": TEXT,
        "error": TEXT,
    },
    optional=("error",),
)
ALIVE = obj({"status": {"const": "alive"}})
READY = obj(
    {
        "status": {"enum": ["ready", "not_ready", "draining"]},
        "models": {
            "type": "object",
            "additionalProperties": obj({"ready": BOOLEAN, "required": BOOLEAN, "reason": TEXT}),
        },
    }
)
_SUMMARY: dict[str, Schema] = {
    "name": TEXT,
    "task": TEXT,
    "model_version": TEXT,
    "certificate_id": TEXT,
    "state": {"enum": ["ready", "unavailable"]},
    "reason": TEXT,
    "required": BOOLEAN,
}
MODELS = obj({"models": array(obj(_SUMMARY))})
_NULLABLE_NUMBER: Schema = {"type": ["number", "null"]}
MODEL = obj(
    {
        **_SUMMARY,
        "description": TEXT,
        "licence": TEXT,
        "engine": TEXT,
        "precision": TEXT,
        "parameters": {
            "type": "object",
            "additionalProperties": obj(
                {"type": TEXT, "minimum": _NULLABLE_NUMBER, "maximum": _NULLABLE_NUMBER, "default": {}, "help": TEXT}
            ),
        },
        "scenarios": {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": THRESHOLD}},
        "labels": array(TEXT),
        "preprocess": {"type": ["object", "null"]},
        "outputs": array(obj({"name": TEXT, "datatype": TEXT, "shape": array(INTEGER)})),
        "batch": obj({"max": INTEGER}),
    }
)
_RULES = {"rules": obj({"scenario": TEXT, "counted": {"type": "object", "additionalProperties": INTEGER}})}
_TASK_FIELDS: dict[str, dict[str, Schema]] = {
    "classification": {"classes": array(obj({"class_id": INTEGER, "label": TEXT, "score": UNIT}))},
    "detection": {
        "detections": array(
            obj(
                {
                    "xyxy": {**array(NUMBER), "minItems": 4, "maxItems": 4},
                    "confidence": UNIT,
                    "class_id": INTEGER,
                    "label": TEXT,
                    "track_id": INTEGER,
                    "origin": {"enum": ["measured", "interpolated", "extrapolated"]},
                },
                optional=("track_id",),
            )
        ),
    },
    "embedding": {"embedding": array(NUMBER)},
    "audio": {
        "sound": obj({"start_pts_ns": INTEGER, "end_pts_ns": INTEGER, "windows": INTEGER}),
        "events": array(
            obj(
                {
                    "event_id": INTEGER,
                    "class_id": INTEGER,
                    "label": TEXT,
                    "score": UNIT,
                    "start_pts_ns": INTEGER,
                    "end_pts_ns": INTEGER,
                    "open": BOOLEAN,
                }
            )
        ),
    },
}


def result(bundle: ModelBundle) -> Schema:
    """The result document of one model; a task unknown here may have any fields of its own."""
    fields = _TASK_FIELDS.get(bundle.spec.task)
    if fields is not None and bundle.spec.rules:
        fields = {**fields, **_RULES}
    common: dict[str, Schema] = {
        "schema": {"const": 1},
        "model": {"const": bundle.name},
        "model_version": {"const": str(bundle.version)},
        "certificate_id": TEXT,
        "task": {"const": bundle.spec.task},
        **({} if bundle.spec.sound is not None else {"image": obj({"width": INTEGER, "height": INTEGER})}),
        "timings_ms": {"type": "object", "additionalProperties": NUMBER},
    }
    return obj({**common, **(fields or {})}, more=fields is None)


def batch(one: Schema) -> Schema:
    """Results in the order of the pictures, or a problem in a picture's place."""
    return obj({"results": array({"anyOf": [one, {"$ref": "#/components/schemas/Problem"}]})})
