"""/v1/models: what is served, what each model takes, and the proof that it is right."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from serving.bundle import ModelBundle
from serving.gateway.context import Context, context_of
from serving.gateway.parameters import parameters_of
from serving.gateway.routing import add
from serving.tasks import task_named
from serving.types import TensorSpec

JSON = "application/json"


def register(app: FastAPI) -> None:
    """Put this file's routes into the app."""
    add(app, "GET", "/v1/models", models)
    add(app, "GET", "/v1/models/{name}", model)
    add(app, "GET", "/v1/models/{name}/certificate", certificate)


async def models(request: Request) -> Response:
    """Name, task, version, certificate and state of every model."""
    context = context_of(request)
    return _json({"models": [_summary(context, bundle) for bundle in context.catalogue]})


async def model(request: Request) -> Response:
    """One model, with its parameters, labels and tensors."""
    context = context_of(request)
    bundle = context.catalogue.get(request.path_params["name"])
    spec = bundle.spec
    return _json(
        {
            **_summary(context, bundle),
            "description": spec.description,
            "licence": spec.licence,
            "engine": bundle.engine,
            "precision": bundle.precision,
            "parameters": {name: _parameter(p) for name, p in parameters_of(spec).items()},
            "scenarios": {name: dict(values) for name, values in spec.scenarios.items()},
            "labels": list(bundle.labels),
            "preprocess": spec.preprocess.model_dump(mode="json") if spec.preprocess else None,
            "outputs": [_tensor(t) for t in task_named(spec.task).outputs(spec)],
            "batch": {"max": context.batch_max[bundle.name]},
        }
    )


async def certificate(request: Request) -> Response:
    """The certificate as JSON, or as a page where the caller prefers HTML."""
    context = context_of(request)
    bundle = context.catalogue.get(request.path_params["name"])
    if prefers_html(request.headers.get("accept", "")):
        return Response(context.catalogue.certificate(bundle, "html"), 200, _certificate_headers(bundle), "text/html")
    return Response(context.catalogue.certificate(bundle, "json"), 200, _certificate_headers(bundle), JSON)


def prefers_html(accept: str) -> bool:
    """Whether text/html comes with a higher weight than JSON in an Accept header (RFC 9110 section 12.5.1)."""
    weights = {"text/html": 0.0, JSON: 0.0, "*/*": 0.0}
    for part in accept.lower().split(","):
        kind, _, parameters = part.strip().partition(";")
        weight = 1.0
        for parameter in parameters.split(";"):
            name, _, value = parameter.strip().partition("=")
            if name == "q":
                digits = value.replace(".", "", 1)
                weight = float(value) if digits.isascii() and digits.isdigit() else 0.0
        if kind.strip() in weights:
            weights[kind.strip()] = weight
    return weights["text/html"] > max(weights[JSON], weights["*/*"])


def _certificate_headers(bundle: ModelBundle) -> dict[str, str]:
    return {"etag": f'"{bundle.certificate_id}"', "vary": "Accept"}


def _summary(context: Context, bundle: ModelBundle) -> dict[str, Any]:
    state = context.readiness.state(bundle.name)
    return {
        "name": bundle.name,
        "task": bundle.spec.task,
        "model_version": str(bundle.version),
        "certificate_id": bundle.certificate_id,
        "state": "ready" if state.ready else "unavailable",
        "reason": state.reason,
        "required": bundle.spec.serving.required,
    }


def _parameter(parameter: Any) -> dict[str, Any]:
    return {
        "type": parameter.kind,
        "minimum": parameter.minimum,
        "maximum": parameter.maximum,
        "default": parameter.default,
        "help": parameter.help,
    }


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), 200, None, JSON)
