"""KServe V2 under /v2: what an unmodified tritonclient.http needs to look around and to infer.

Control of the server (repository, shared memory, trace, logging, statistics) has no route here, so it is 404.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from serving import __version__
from serving.bundle import ModelBundle
from serving.errors import BodyInvalid, MediaTypeUnsupported, ParameterInvalid, Unavailable
from serving.gateway import v2_codec
from serving.gateway.catalogue import RESULT
from serving.gateway.context import RequestState, body_of, context_of, deadline_of, remaining
from serving.gateway.inference import call, count_results
from serving.gateway.limits import MAX_TIMEOUT_MS
from serving.gateway.parameters import from_json, to_wire, whole
from serving.gateway.routing import Handler, add
from serving.ports import ServerRequest

JSON, BINARY = "application/json", "application/octet-stream"
HEADER_LENGTH = "inference-header-content-length"


def register(app: FastAPI) -> None:
    """Put this file's routes into the app; a model's routes stand with and without a version."""
    add(app, "GET", "/v2", server)
    add(app, "GET", "/v2/health/live", live)
    add(app, "GET", "/v2/health/ready", ready)
    routes: tuple[tuple[str, str, Handler], ...] = (
        ("GET", "", metadata),
        ("GET", "/ready", model_ready),
        ("GET", "/config", config),
        ("POST", "/infer", infer),
    )
    for method, tail, handler in routes:
        add(app, method, f"/v2/models/{{name}}{tail}", handler)
        add(app, method, f"/v2/models/{{name}}/versions/{{version}}{tail}", handler)


async def server(request: Request) -> Response:
    """Server metadata."""
    return _json({"name": "lockstep", "version": __version__, "extensions": ["binary_tensor_data"]})


async def live(request: Request) -> Response:
    """The process runs."""
    return _json({"live": True})


async def ready(request: Request) -> Response:
    """As /readyz."""
    context = context_of(request)
    if context.draining or not context.readiness.ready():
        raise Unavailable("not ready")
    return _json({"ready": True})


async def model_ready(request: Request) -> Response:
    """Whether this model's canary passes."""
    bundle = _bundle(request)
    state = context_of(request).readiness.state(bundle.name)
    if not state.ready:
        raise Unavailable(f"{bundle.name}: {state.reason}")
    return _json({"name": bundle.name, "ready": True})


async def metadata(request: Request) -> Response:
    """Names, datatypes and shapes of a model's tensors, as the inference server has them."""
    return _json(await _metadata(request, _bundle(request)))


async def config(request: Request) -> Response:
    """The parts of Triton's model configuration that a client reads."""
    bundle = _bundle(request)
    known = await _metadata(request, bundle)
    return _json(
        {
            "name": bundle.name,
            "platform": known.get("platform", ""),
            "backend": "python",
            "max_batch_size": context_of(request).batch_max[bundle.name],
            "input": [_config_tensor(t) for t in known["inputs"]],
            "output": [_config_tensor(t) for t in known["outputs"]],
        }
    )


async def infer(request: Request) -> Response:
    """Tensors in, tensors out, as JSON or as bytes."""
    context, state = context_of(request), RequestState.of(request)
    bundle, deadline = _bundle(request), deadline_of(request)
    if request.scope["query_string"]:
        raise ParameterInvalid("query string: expected none; parameters stand in the body")
    _check_type(state.headers.get(b"content-type"))
    context.in_flight.check()
    body = await body_of(request, deadline)
    asked = v2_codec.decode(body, state.headers.get(HEADER_LENGTH.encode()))
    parameters, deadline = _parameters(asked.parameters, bundle, deadline)
    with context.in_flight.take(_rows(asked, context.batch_max[bundle.name])):
        reply = await call(
            context,
            ServerRequest(
                model_name=bundle.name,
                tensors=asked.tensors,
                parameters=to_wire(parameters),
                outputs=tuple(output.name for output in asked.outputs),
                model_version=str(bundle.version),
                request_id=asked.id or state.request_id,
            ),
            deadline,
        )
    if RESULT in reply.tensors:
        count_results(context, bundle, reply.tensors[RESULT])
    data, header_length = v2_codec.encode(reply, asked)
    if header_length is None:
        return Response(data, 200, None, JSON)
    return Response(data, 200, {HEADER_LENGTH: str(header_length)}, BINARY)


def _check_type(content_type: bytes | None) -> None:
    kind = (content_type or b"").split(b";")[0].strip().lower().decode("latin-1")
    if kind not in ("", JSON, BINARY):
        raise MediaTypeUnsupported(f"Content-Type: expected {JSON} or {BINARY}, got {kind[:60]!r}")


def _parameters(given: Mapping[str, Any], bundle: ModelBundle, deadline: float) -> tuple[dict[str, Any], float]:
    """The task's parameters, and the deadline after Triton's own `timeout` parameter (microseconds)."""
    own = dict(given)
    if "timeout" in own:
        timeout = whole(own.pop("timeout")) or 0
        if not 1 <= timeout <= MAX_TIMEOUT_MS * 1000:
            raise ParameterInvalid(f"timeout: expected 1 to {MAX_TIMEOUT_MS * 1000} microseconds")
        deadline = min(deadline, asyncio.get_running_loop().time() + timeout / 1e6)
    return from_json(own, bundle.spec), deadline


def _rows(asked: v2_codec.V2Request, most: int) -> int:
    rows = {tensor.array.shape[0] for tensor in asked.tensors}
    if len(rows) != 1 or not 1 <= max(rows) <= most:
        raise BodyInvalid(f"inputs: expected one batch size of 1 to {most}, got {sorted(rows)}")
    return int(rows.pop())


def _bundle(request: Request) -> ModelBundle:
    return context_of(request).catalogue.get(request.path_params["name"], request.path_params.get("version", ""))


async def _metadata(request: Request, bundle: ModelBundle) -> dict[str, Any]:
    known = await context_of(request).server.metadata(bundle.name, remaining(deadline_of(request)))
    return {**known, "versions": [str(bundle.version)]}


def _config_tensor(tensor: Mapping[str, Any]) -> dict[str, Any]:
    # The configuration leaves the batch axis out; metadata has it.
    return {"name": tensor["name"], "data_type": f"TYPE_{tensor['datatype']}", "dims": list(tensor["shape"])[1:]}


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), 200, None, JSON)
