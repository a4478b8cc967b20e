"""OpenAPI description of the KServe V2 routes."""

from __future__ import annotations

from typing import Any

from serving.bundle import ModelBundle
from serving.gateway.catalogue import RESULT, Catalogue
from serving.gateway.limits import MAX_TIMEOUT_MS
from serving.gateway.operations import INFER_ERRORS, REQUEST_ID_HEADER, common_headers, get, json, problems, values_of
from serving.gateway.schemas_answers import BOOLEAN, INTEGER, TEXT, array, obj
from serving.gateway.v2_codec import MAX_AXES, MAX_SIDE, MAX_TENSORS
from serving.tasks import task_named
from serving.types import DATATYPES

Schema = dict[str, Any]

_TENSOR = obj({"name": TEXT, "datatype": TEXT, "shape": array(INTEGER)})
_METADATA = obj(
    {
        "name": TEXT,
        "versions": array(TEXT),
        "platform": TEXT,
        "inputs": array(_TENSOR),
        "outputs": array(_TENSOR),
    }
)
_CONFIG_TENSOR = obj({"name": TEXT, "data_type": TEXT, "dims": array(INTEGER)})
_CONFIG = obj(
    {
        "name": TEXT,
        "platform": TEXT,
        "backend": TEXT,
        "max_batch_size": INTEGER,
        "input": array(_CONFIG_TENSOR),
        "output": array(_CONFIG_TENSOR),
    }
)
_ANSWER = obj(
    {
        "model_name": TEXT,
        "model_version": TEXT,
        "id": TEXT,
        "outputs": array(
            obj(
                {
                    "name": TEXT,
                    "datatype": {"enum": list(DATATYPES)},
                    "shape": array(INTEGER),
                    "data": array({"type": ["number", "boolean"]}),
                    "parameters": obj({"binary_data_size": INTEGER}),
                },
                optional=("data", "parameters"),
            )
        ),
    },
    optional=("id",),
)


def paths(catalogue: Catalogue) -> dict[str, Schema]:
    """Paths under /v2. Those of one model stand with and without its version."""
    server = obj({"name": TEXT, "version": TEXT, "extensions": array(TEXT)})
    found = {
        "/v2": get("v2_server", "The server's name and extensions", json(server)),
        "/v2/health/live": get("v2_live", "Whether the process runs", json(obj({"live": BOOLEAN}))),
        "/v2/health/ready": get("v2_ready", "Whether every required model answers", json(obj({"ready": BOOLEAN})), 503),
    }
    names = [bundle.name for bundle in catalogue]
    versions = sorted({str(bundle.version) for bundle in catalogue})
    ready = json(obj({"name": TEXT, "ready": BOOLEAN}))
    for prefix, tag, given in (
        ("/v2/models/{name}", "", None),
        ("/v2/models/{name}/versions/{version}", "_version", versions),
    ):
        named = {"names": names, "versions": given}
        found |= {
            prefix: get(f"v2_model{tag}", "Tensors of one model", json(_METADATA), 404, 422, 503, 504, **named),
            f"{prefix}/ready": get(f"v2_model_ready{tag}", "Whether it answers", ready, 404, 503, **named),
            f"{prefix}/config": get(
                f"v2_model_config{tag}", "Its configuration", json(_CONFIG), 404, 422, 503, 504, **named
            ),
        }
    for bundle in catalogue:
        for tail, tag in (("", ""), (f"/versions/{bundle.version}", f"_{bundle.version}")):
            found[f"/v2/models/{bundle.name}{tail}/infer"] = {"post": _infer(bundle, f"v2_infer_{bundle.name}{tag}")}
    return found


def _infer(bundle: ModelBundle, operation_id: str) -> Schema:
    binary: Schema = {"schema": {"type": "string", "format": "binary"}}
    return {
        "operationId": operation_id,
        "summary": "Tensors in, tensors out (KServe V2). With the header Inference-Header-Content-Length the body is"
        " that many bytes of this JSON, then binary tensor data",
        "parameters": common_headers(),
        "requestBody": {
            "required": True,
            "content": json(_request(bundle)),
        },
        "responses": {
            "200": {
                "description": "the outputs",
                "headers": REQUEST_ID_HEADER,
                "content": {"application/json": {"schema": _ANSWER}, "application/octet-stream": binary},
            },
            **problems(INFER_ERRORS),
        },
    }


def _request(bundle: ModelBundle) -> Schema:
    side = {"type": "integer", "minimum": 1, "maximum": MAX_SIDE}
    raw = not bundle.spec.takes_files
    files = [bundle.spec.encoded_input] + ["frame"] * bundle.spec.takes_pictures
    names = [t.name for t in bundle.spec.inputs] if raw else files
    datatypes = sorted({t.datatype for t in bundle.spec.inputs}) if raw else ["UINT8"]
    tensor = obj(
        {
            "name": {"type": "string", "enum": names},
            "datatype": {"type": "string", "enum": datatypes},
            "shape": {"type": "array", "items": side, "minItems": 1, "maxItems": MAX_AXES},
            "data": {"type": "array", "items": {"type": ["number", "boolean", "array"]}, "minItems": 1},
            "parameters": obj({"binary_data_size": INTEGER}),
        },
        optional=("data", "parameters"),
    )
    outputs = [t.name for t in task_named(bundle.spec.task).outputs(bundle.spec)] + [RESULT]
    wanted = obj(
        {
            "name": {"type": "string", "enum": outputs},
            "parameters": obj({"binary_data": BOOLEAN}, optional=("binary_data",)),
        },
        optional=("parameters",),
    )
    timeout = {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT_MS * 1000, "description": "microseconds"}
    values = {**values_of(bundle), "binary_data_output": BOOLEAN, "timeout": timeout}
    return obj(
        {
            "id": TEXT,
            "parameters": obj(values, optional=tuple(values)),
            "inputs": {"type": "array", "items": tensor, "minItems": 1, "maxItems": MAX_TENSORS},
            "outputs": {"type": "array", "items": wanted, "maxItems": MAX_TENSORS},
        },
        optional=("id", "parameters", "outputs"),
    )
