"""The part of /openapi.json about /v1/galleries; there where a pipeline that matches a gallery is served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.bundle import ModelBundle
from serving.gateway.bodies import RAW_TYPES
from serving.gateway.operations import INFER_ERRORS, common_headers, json, problems
from serving.gateway.schemas_answers import INTEGER, NUMBER, TEXT, array, obj

Schema = dict[str, Any]
_COSINE: Schema = {"type": "number", "minimum": -1, "maximum": 1}
_OR_NULL: Schema = {"type": ["number", "null"]}
_NAME: Schema = {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,62}$"}
_SUBJECT_ID: Schema = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}
_SUMMARY: dict[str, Schema] = {
    "name": TEXT, "pipeline": TEXT, "subjects": INTEGER, "samples": INTEGER, "dimension": INTEGER, "fingerprint": TEXT,
    "threshold": _OR_NULL, "margin": _OR_NULL, "far": _OR_NULL, "search": {"enum": ["exact", "graph"]},
}  # fmt: skip
_ROW = {"subject": TEXT, "label": TEXT, "samples": INTEGER}
_MEASURED = obj({"far": NUMBER, "tar": _OR_NULL, "impostor_pairs": INTEGER, "genuine_pairs": INTEGER})
GALLERY = obj({**_SUMMARY, "measured": _MEASURED}, optional=("measured",))
GALLERIES = obj({"galleries": array(obj(_SUMMARY))})
WITH_SUBJECTS = obj({**_SUMMARY, "subjects_list": array(obj(_ROW))})
SUBJECT = obj({"gallery": TEXT, **_ROW, "sample": INTEGER}, optional=("sample",))
RESULTS = obj(
    {
        "results": array(
            obj(
                {
                    "status": {"enum": ["known", "unknown"]}, "subject": TEXT, "label": TEXT, "score": NUMBER,
                    "margin": NUMBER, "reason": TEXT, "xyxy": array(NUMBER), "confidence": NUMBER,
                    "problems": array(TEXT), "nearest": array(obj({"subject": TEXT, "label": TEXT, "score": NUMBER})),
                },
                optional=("subject", "reason", "xyxy", "confidence", "problems"),
            )
        )
    }
)  # fmt: skip
_MEMBER = obj({"subject": TEXT, "label": TEXT, "sample": INTEGER})
DUPLICATES = obj(
    {
        "gallery": TEXT, "threshold": NUMBER, "samples": INTEGER,
        "groups": array(obj({"samples": array(_MEMBER), "best": NUMBER, "least": NUMBER})),
    }
)  # fmt: skip
_READ, _WRITE = (404, 422, 500, 504), (400, 404, 408, 409, 413, 415, 422, 500, 503, 504, 507)


def paths(pipelines: Sequence[ModelBundle]) -> dict[str, Schema]:
    """The operations; nothing where no pipeline matches a gallery."""
    if not pipelines:
        return {}
    new = obj({"name": _NAME, "pipeline": {"type": "string", "enum": [b.name for b in pipelines]},
               "threshold": _COSINE, "margin": _COSINE}, optional=("threshold", "margin"))  # fmt: skip
    rate = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    changes = obj({"threshold": _COSINE, "margin": _COSINE, "far": rate}, optional=("threshold", "margin", "far"))
    one, subject = "/v1/galleries/{gallery}", "/v1/galleries/{gallery}/subjects/{subject}"
    return {
        "/v1/galleries": {
            "get": _operation("galleries", "All galleries", 200, GALLERIES, _READ),
            "post": _operation("create_gallery", "A new gallery", 201, GALLERY, _WRITE, body=json(new)),
        },
        one: {
            "get": _operation("gallery", "A gallery with its subjects", 200, WITH_SUBJECTS, _READ, one),
            "patch": _operation("change_gallery", "Threshold, margin, or a threshold by a wanted rate", 200, GALLERY,
                                _WRITE, one, json(changes)),
            "delete": _operation("delete_gallery", "Delete a gallery with all it holds", 204, None, _WRITE, one),
        },
        f"{one}/search": {
            "post": _operation("search_gallery", "Who is in a picture, or whose embedding this is", 200, RESULTS,
                               (*_WRITE, 429), one, _picture(search=True), _asking("top")),
        },
        f"{one}/duplicates": {
            "get": _operation("gallery_duplicates", "Groups of near duplicates among its samples", 200, DUPLICATES,
                              _READ, one, query=[_bound()]),
        },
        subject: {
            "get": _operation("subject", "One subject", 200, SUBJECT, _READ, subject),
            "post": _operation("enrol", "Add a picture to a subject", 201, SUBJECT, (*_WRITE, 429), subject,
                               _picture(), _asking("label")),
            "put": _operation("replace_subject", "One picture in place of all of a subject", 201, SUBJECT,
                              (*_WRITE, 429), subject, _picture(), _asking("label")),
            "patch": _operation("relabel_subject", "Another label", 200, SUBJECT, _WRITE, subject,
                                json(obj({"label": {"type": "string", "maxLength": 200}}))),
            "delete": _operation("delete_subject", "Delete a subject", 204, None, _WRITE, subject),
        },
    }  # fmt: skip


def _operation(
    operation_id: str, summary: str, status: int, answer: Schema | None, errors: Sequence[int], path: str = "",
    body: Schema | None = None, query: Sequence[Schema] = (),
) -> Schema:  # fmt: skip
    operation: Schema = {"operationId": operation_id, "summary": summary}
    places = [n for n in ("gallery", "subject") if f"{{{n}}}" in path]
    schemas = {"gallery": _NAME, "subject": _SUBJECT_ID}
    operation["parameters"] = [
        *({"name": n, "in": "path", "required": True, "schema": schemas[n]} for n in places), *query, *common_headers(),
    ]  # fmt: skip
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    good: Schema = {"description": "ok", **({"content": json(answer)} if answer is not None else {})}
    operation["responses"] = {str(status): good, **problems(e for e in errors if e in (*INFER_ERRORS, 409, 507))}
    return operation


def _picture(search: bool = False) -> Schema:
    content: Schema = {
        kind: {"schema": {"type": "string", "format": "image-file", "minLength": 1}} for kind in RAW_TYPES
    }
    image = {"type": "string", "contentEncoding": "base64", "format": "base64-image", "minLength": 4}
    one = obj({"image": image, "parameters": {"type": "object"}}, optional=("parameters",))
    content["application/json"] = {"schema": one}
    if search:
        vector = obj({"embedding": {**array(NUMBER), "minItems": 1}, "top": INTEGER}, optional=("top",))
        content["application/json"] = {"schema": {"oneOf": [one, vector]}}
    return content


def _bound() -> Schema:
    """The query parameter of `duplicates`."""
    return {"name": "threshold", "in": "query", "required": False, "description": "cosine; default: the gallery's",
            "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 1}}  # fmt: skip


def _asking(own: str) -> list[Schema]:
    own_schema = (
        {"type": "integer", "minimum": 1, "maximum": 50} if own == "top" else {"type": "string", "maxLength": 200}
    )
    roi = {"name": "roi", "in": "query", "required": False, "description": "x1,y1,x2,y2: only this part is looked at",
           "schema": {"type": "string"}}  # fmt: skip
    return [{"name": own, "in": "query", "required": False, "schema": own_schema}, roi]
