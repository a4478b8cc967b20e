"""One picture (or a list of them) to the inference server and its JSON back, under admission and deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import orjson

from serving.bundle import ModelBundle
from serving.errors import DeadlineExceeded, EngineFailed, ServingError
from serving.gateway.catalogue import RESULT
from serving.gateway.context import Context, remaining
from serving.gateway.parameters import to_wire
from serving.ports import ServerReply, ServerRequest, ServerTensor
from serving.types import Array

_STAGES = ("decode", "preprocess", "infer", "postprocess")


async def call(context: Context, request: ServerRequest, deadline: float) -> ServerReply:
    """One request to the server, counted. Raises ServingError classes; DeadlineExceeded never later than `deadline`."""
    metrics, name = context.metrics, context.catalogue.label(request.model_name)
    outcome = "internal"
    started = time.perf_counter()
    try:
        if (left := remaining(deadline)) <= 0:
            raise DeadlineExceeded("the deadline passed before the inference")
        try:
            with context.pace_of(name).take(left, context.shed):
                async with asyncio.timeout(left):
                    reply = await context.server.infer(request, left)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed during the inference") from None
        outcome = "ok"
        context.readiness.answered(request.model_name)
        metrics.observe("lockstep_inference_server_seconds", time.perf_counter() - started, model=name)
        return reply
    except ServingError as error:
        outcome = error.code
        raise
    finally:
        metrics.inc("lockstep_inference_requests_total", model=name, outcome=outcome)


async def infer_picture(
    context: Context,
    bundle: ModelBundle,
    encoded: bytes,
    parameters: Mapping[str, Any],
    deadline: float,
    request_id: str,
) -> tuple[bytes, dict[str, float]]:
    """The result document (JSON bytes, as the model wrote it) of one encoded picture, and its stages' milliseconds."""
    image = np.frombuffer(encoded, np.uint8).reshape(1, -1)
    request = ServerRequest(
        model_name=bundle.name,
        tensors=(ServerTensor(bundle.spec.encoded_input, image),),
        parameters=to_wire(parameters),
        outputs=(RESULT,),
        model_version=str(bundle.version),
        request_id=request_id,
    )
    reply = await call(context, request, deadline)
    result = reply.tensors.get(RESULT)
    if result is None or not result.size:
        raise EngineFailed(f"{bundle.name}: the server's answer has no `{RESULT}`; got {sorted(reply.tensors)}")
    document = result.tobytes()
    return document, stage_times(context, bundle, document)


async def infer_pictures(
    context: Context,
    bundle: ModelBundle,
    encoded: Sequence[bytes],
    parameters: Mapping[str, Any],
    deadline: float,
    request_id: str,
) -> list[bytes | ServingError]:
    """Results in the order of the pictures; a picture's error is its own and stands in its place."""

    async def one(data: bytes) -> bytes | ServingError:
        try:
            return (await infer_picture(context, bundle, data, parameters, deadline, request_id))[0]
        except ServingError as error:
            return error

    return list(await asyncio.gather(*(one(data) for data in encoded)))


def stage_times(context: Context, bundle: ModelBundle, document: bytes) -> dict[str, float]:
    """timings_ms of a result document, also counted; stages that it does not name are left out."""
    try:
        answer = orjson.loads(document)
        timings = answer["timings_ms"]
        times = {stage: float(timings[stage]) for stage in _STAGES if stage in timings}
        counted = {str(rule): int(boxes) for rule, boxes in answer.get("rules", {}).get("counted", {}).items()}
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineFailed(f"{bundle.name}: the model's result is not a result document") from error
    name = context.catalogue.label(bundle.name)
    if answer.get("certificate_id") != bundle.certificate_id:
        context.metrics.inc("lockstep_certificate_mismatches_total", model=name)
    for stage, ms in times.items():
        context.metrics.inc("lockstep_inference_stage_seconds_total", ms / 1e3, model=name, stage=stage)
    for rule, boxes in counted.items():
        context.metrics.inc("lockstep_rule_boxes_total", boxes, model=name, rule=rule)
    return times


def count_results(context: Context, bundle: ModelBundle, results: Array) -> None:
    """Count `result` [n, bytes] of a batch as `stage_times` does; what is no result document is left to the caller."""
    for document in results:
        with suppress(EngineFailed):
            stage_times(context, bundle, document.tobytes())


def server_timing(times: Mapping[str, float]) -> str:
    """The Server-Timing header (W3C): `decode;dur=1.2, ...`, milliseconds."""
    return ", ".join(f"{stage};dur={ms:.3f}" for stage, ms in times.items())
