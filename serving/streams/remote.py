"""Inference through a server (Triton) for the worker: pixels go as `frame`, typed tensors come back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import Thread
from typing import Any

import numpy as np

from serving.errors import EngineFailed, ServingError, Unavailable
from serving.ports import InferenceServer, ServerReply, ServerRequest, ServerTensor
from serving.tasks import task_named
from serving.tasks.audio_session import audio_of
from serving.tasks.base import ReadsTensors
from serving.types import (
    APPEARANCE,
    Array,
    Classification,
    Detections,
    Embedding,
    ImageSize,
    InferRequest,
    InferResponse,
    TaskResult,
)

RESULT = "result"
_READERS: Mapping[str, Callable[[Mapping[str, Array]], TaskResult]] = {
    "detection": lambda t: Detections(
        _row(t, "xyxy").reshape(-1, 4).astype(np.float32),
        _row(t, "confidence").astype(np.float32),
        _row(t, "class_id").astype(np.int64),
    ),
    "classification": lambda t: Classification(
        _row(t, "class_id").astype(np.int64), _row(t, "score").astype(np.float32)
    ),
    "audio": lambda t: audio_of(_row(t, "scores"), _row(t, "state")),
    "embedding": lambda t: Embedding(_row(t, "embedding").astype(np.float32)),
}


class RemoteInfer:
    """`serving.streams.worker.Infer` over `ports.InferenceServer`, whose calls run on an event loop of their own.

    make_server is called on that loop's thread, because a channel belongs to the loop it is used on. certificate_id: of
    the version that was checked here; what a server computes under another one is no answer (Unavailable).
    """

    def __init__(
        self,
        make_server: Callable[[], InferenceServer],
        model_name: str,
        model_version: str,
        certificate_id: str,
        task: str,
        timeout_s: float,
    ) -> None:
        if task == "raw":
            raise EngineFailed(f"{model_name}: task raw is not served to streams: its answers have no meaning to join")
        self._make_server = make_server
        self._name, self._version, self._certificate_id = model_name, model_version, certificate_id
        self._task, self._timeout_s = task, timeout_s
        self._server: InferenceServer | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name=f"infer {model_name}", daemon=True)
        self._thread.start()

    def __call__(self, requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
        """One call a request, all at once; an error is its own request's."""
        return asyncio.run_coroutine_threadsafe(self._all(requests), self._loop).result()

    def close(self) -> None:
        """Close the channel and end the loop."""
        if self._server is not None:
            asyncio.run_coroutine_threadsafe(self._server.close(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _all(self, requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
        if self._server is None:
            self._server = self._make_server()
        return list(await asyncio.gather(*(self._one(self._server, request) for request in requests)))

    async def _one(self, server: InferenceServer, request: InferRequest) -> InferResponse | ServingError:
        try:
            reply = await server.infer(self._request(request), self._timeout_s)
            return self._response(reply)
        except ServingError as error:
            return error

    def _request(self, request: InferRequest) -> ServerRequest:
        if request.tensors is not None:  # a session that carries the network's state
            tensors = tuple(ServerTensor(name, np.ascontiguousarray(a)[None]) for name, a in request.tensors.items())
        elif request.encoded is not None:
            tensors = (ServerTensor("image", np.frombuffer(request.encoded, np.uint8)[None]),)
        else:
            assert request.frame is not None
            tensors = (ServerTensor("frame", np.ascontiguousarray(request.frame)[None]),)
        parameters = {name: value for name, value in request.parameters.items() if value not in (None, "")}
        return ServerRequest(self._name, tensors, parameters, model_version=self._version)

    def _response(self, reply: ServerReply) -> InferResponse:
        document = reply.tensors.get(RESULT)
        if document is None or not document.size:
            raise EngineFailed(f"{self._name}: the server's answer has no `{RESULT}`; got {sorted(reply.tensors)}")
        fields: dict[str, Any] = json.loads(document.tobytes())
        if (told := fields.get("certificate_id")) != self._certificate_id:
            raise Unavailable(
                f"{self._name} version {self._version}: expected answers under certificate {self._certificate_id},"
                f" got {told!r}",
                hint="the version was converted again: start what serves it and this process again",
            )
        size = fields.get("image")
        image = ImageSize(size["width"], size["height"]) if size else None
        result = self._read(reply.tensors, fields)
        return InferResponse(result, image, fields.get("timings_ms", {}))

    def _read(self, tensors: Mapping[str, Array], fields: Mapping[str, Any]) -> TaskResult:
        if read := _READERS.get(self._task):
            return read(tensors)
        task = task_named(self._task)
        if isinstance(task, ReadsTensors):
            return task.from_tensors({name: _row(tensors, name) for name in tensors if name != RESULT})
        return self._from_document(tensors, fields)

    def _from_document(self, tensors: Mapping[str, Array], fields: Mapping[str, Any]) -> TaskResult:
        """A task without a reader here is read as it is told; what boxes look like is in no document, so by tensor."""
        try:
            result = task_named(self._task).from_document(fields)
            if APPEARANCE in tensors and isinstance(result, Detections):
                looks = _row(tensors, APPEARANCE)
                result = replace(result, appearance=looks.astype(np.float32) if looks.size else None)
            return result
        except (KeyError, ValueError, TypeError) as error:
            raise EngineFailed(f"{self._name}: the server's answer tells no {self._task} result: {error}") from error


def _row(tensors: Mapping[str, Array], name: str) -> Array:
    """A sample's tensor without the batch axis."""
    if name not in tensors:
        raise EngineFailed(f"the server's answer has no tensor {name!r}; got {sorted(tensors)}")
    return np.asarray(tensors[name][0])
