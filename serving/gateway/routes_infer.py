"""POST /v1/models/{name}/infer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from serving.bundle import ModelBundle
from serving.errors import InputError, ServingError
from serving.gateway import errors
from serving.gateway.bodies import Pictures, read_pictures
from serving.gateway.context import Context, RequestState, body_of, context_of, deadline_of, remaining
from serving.gateway.inference import infer_picture, infer_pictures, server_timing
from serving.gateway.parameters import from_query
from serving.gateway.routing import add

JSON = "application/json"


def register(app: FastAPI) -> None:
    """Put this file's routes into the app."""
    add(app, "POST", "/v1/models/{name}/infer", infer)


async def infer(request: Request) -> Response:
    """Door checks, body, admission, server, answer. The model's JSON leaves as it came."""
    context, state = context_of(request), RequestState.of(request)
    bundle = context.catalogue.get(request.path_params["name"])
    if not bundle.spec.takes_files:
        raise InputError(f"{bundle.name} takes named tensors", hint=f"POST /v2/models/{bundle.name}/infer")
    deadline = deadline_of(request)
    query = from_query(request.scope["query_string"], bundle.spec)
    context.in_flight.check()  # a full house is said before the body is read, and so is a wait that is too long
    context.pace_of(bundle.name).check(remaining(deadline), context.shed)
    body = await body_of(request, deadline)
    pictures = read_pictures(state.headers.get(b"content-type"), body, bundle.spec)
    parameters = {**query, **pictures.parameters}  # what stands in the body is closer to the picture, and wins
    started = time.perf_counter()
    with context.in_flight.take(len(pictures.encoded)):
        if pictures.batch:
            return await _answer_batch(context, bundle, pictures, parameters, deadline, state)
        picture = pictures.encoded[0]
        document, times = await infer_picture(context, bundle, picture, parameters, deadline, state.request_id)
    times["server"] = (time.perf_counter() - started) * 1e3
    return Response(document, 200, {"server-timing": server_timing(times)}, JSON)


async def _answer_batch(
    context: Context,
    bundle: ModelBundle,
    pictures: Pictures,
    parameters: Mapping[str, Any],
    deadline: float,
    state: RequestState,
) -> Response:
    """`{"results": [...]}` in the pictures' order, an error as a problem in its place; all failed: the first one's."""
    answers = await infer_pictures(context, bundle, pictures.encoded, parameters, deadline, state.request_id)
    failed = [answer for answer in answers if isinstance(answer, ServingError)]
    if len(failed) == len(answers):
        raise failed[0]
    return Response(b'{"results":[' + b",".join(_items(answers, state.request_id)) + b"]}", 200, None, JSON)


def _items(answers: Sequence[bytes | ServingError], request_id: str) -> list[bytes]:
    return [
        orjson.dumps(errors.problem(answer, request_id)[1]) if isinstance(answer, ServingError) else answer
        for answer in answers
    ]
