"""Three ways to ask one model: in this process, through Triton, through the gateway. Each gives a Runner's answers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

import httpx2 as httpx
import numpy as np
import orjson

from converters.rows_server import Answer
from converters.samples import Sample
from serving.adapters.triton import TritonServer
from serving.backend import Served
from serving.errors import DeadlineExceeded, LockstepError, Overloaded, ServingError, Unavailable
from serving.frames import is_sound
from serving.ports import ServerReply, ServerRequest, ServerTensor
from serving.preprocess.audio import read_sound_header
from serving.preprocess.sniff import read_header
from serving.tasks import task_named
from serving.types import Array, InferRequest, RawTensors

T = TypeVar("T")
TIMEOUT_S = 60.0
# A server that runs has other callers too, and a queue of its own: what it sheds is asked again, it is no wrong answer.
BUSY, PAUSE_S = (429, 503, 504), 0.2
TensorsOf = Mapping[str, Mapping[str, Array]]


class LocalRunner:
    """The same artifact in this process. One caller at a time: an engine belongs to one thread."""

    def __init__(self, model: Served, tensors: TensorsOf | None = None) -> None:
        self._model, self._tensors, self._lock = model, tensors or {}, threading.Lock()

    def ask(self, sample: Sample, parameters: Mapping[str, Any]) -> Answer:
        """Raises what the model says of this sample."""
        given: dict[str, Any] = {"encoded": sample.data}
        if sample.name in self._tensors:
            given = {"tensors": self._tensors[sample.name]}
        with self._lock:
            (answer,) = self._model.infer([InferRequest(**given, parameters=parameters)])
        if isinstance(answer, ServingError):
            raise answer
        # Through JSON, as the other side's document comes.
        return Answer(orjson.loads(orjson.dumps(self._model.document(answer))), answer.result)


class TritonRunner:
    """A Triton by gRPC. Use as a context: it has an event loop in a thread of its own."""

    def __init__(self, url: str, model: str, task: str, tensors: TensorsOf | None = None) -> None:
        self._url, self._model, self._task, self._tensors = url, model, task, tensors or {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="certificate-triton", daemon=True)
        self._server: TritonServer | None = None

    def __enter__(self) -> TritonRunner:
        self._thread.start()
        self._server = TritonServer(self._url)
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._wait(self._server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def ask(self, sample: Sample, parameters: Mapping[str, Any]) -> Answer:
        """The file's bytes as `image`, or a raw model's tensors; all outputs asked for."""
        if self._server is None:
            raise Unavailable("TritonRunner: used outside its context")
        name = "audio" if is_sound(sample.data) else "image"
        arrays: Mapping[str, Array] = {name: np.frombuffer(sample.data, np.uint8)}
        if sample.name in self._tensors:
            arrays = self._tensors[sample.name]
        tensors = [ServerTensor(name, array[None]) for name, array in arrays.items()]
        reply = self._patiently(ServerRequest(self._model, tensors, dict(parameters)))
        document = orjson.loads(reply.tensors["result"].tobytes())
        if self._task == "raw":
            found = {name: array[0] for name, array in reply.tensors.items() if name != "result"}
            return Answer(document, RawTensors(found))
        return Answer(document, task_named(self._task).from_document(document))

    def _patiently(self, request: ServerRequest) -> ServerReply:
        assert self._server is not None
        give_up = time.monotonic() + TIMEOUT_S
        while True:
            try:
                return self._wait(self._server.infer(request, TIMEOUT_S))
            except (Overloaded, DeadlineExceeded):
                if time.monotonic() > give_up:
                    raise
                time.sleep(PAUSE_S)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT_S + 5)


class GatewayRunner:
    """`POST /v1/models/{name}/infer` with the raw bytes. Use as a context."""

    def __init__(self, address: str, model: str, task: str) -> None:
        self._url, self._task = f"{address.rstrip('/')}/v1/models/{model}/infer", task
        self._client = httpx.Client(timeout=TIMEOUT_S, trust_env=False)

    def __enter__(self) -> GatewayRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, sample: Sample, parameters: Mapping[str, Any]) -> Answer:
        """A problem document becomes a ServingError that says its code and detail."""
        headers = {"content-type": _media_type(sample.data)}
        headers["x-request-timeout-ms"] = str(int(TIMEOUT_S * 1e3))
        query = {name: str(value) for name, value in parameters.items()}
        give_up = time.monotonic() + TIMEOUT_S
        try:
            reply = self._client.post(self._url, content=sample.data, params=query, headers=headers)
            while reply.status_code in BUSY and time.monotonic() < give_up:
                time.sleep(PAUSE_S)
                reply = self._client.post(self._url, content=sample.data, params=query, headers=headers)
            document = orjson.loads(reply.content)
        except (httpx.HTTPError, orjson.JSONDecodeError) as error:
            raise Unavailable(f"gateway: {type(error).__name__}: {error}") from error
        if reply.status_code != 200:
            raise GatewayAnswered(f"{reply.status_code} {document.get('code')}: {document.get('detail')}")
        return Answer(document, task_named(self._task).from_document(document))


def _media_type(data: bytes) -> str:
    if is_sound(data):
        return f"audio/{read_sound_header(data).format.lower()}"
    return f"image/{read_header(data).format}"


class GatewayAnswered(LockstepError):
    """The gateway answered with a problem document."""

    code = "gateway_answered"
