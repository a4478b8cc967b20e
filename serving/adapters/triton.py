"""Triton over gRPC, as `ports.InferenceServer`. The only importer of tritonclient.

Make it in the process that uses it: the channel is opened at first use, and a channel does not survive a fork.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from serving.adapters.breaker import Breaker
from serving.adapters.triton_errors import refusal_of
from serving.adapters.triton_room import Room, room_of
from serving.errors import BodyInvalid, NotFound, ParameterInvalid, ServingError, Unavailable
from serving.ports import ServerModel, ServerReply, ServerRequest
from serving.types import Array, datatype_of

logger = logging.getLogger("lockstep.triton")
T = TypeVar("T")

MAX_MESSAGE_BYTES = 2**31 - 1
# Of its time, a request may wait so much in the queue of a model with a queue policy. One that left the queue at the
# very end of its time would be computed for nobody, and in a full queue all do.
WAITING_SHARE = 0.7
_CHANNEL = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A restarted server is found again at once; gRPC's own default waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 250),
    ("grpc.enable_http_proxy", 0),
]


class TritonServer:
    """One Triton. `url`: `grpc://host:port` or `host:port`; `models`: names that it is expected to serve."""

    def __init__(self, url: str, models: Iterable[str] = ()) -> None:
        self._address = url.removeprefix("grpc://")
        if "://" in self._address or ":" not in self._address:
            raise Unavailable(f"triton_url: expected grpc://host:port, got {url!r}")
        self._known = set(models)
        self._answered: set[tuple[str, str]] = set()
        self._breakers: dict[str, Breaker] = {}
        self._rooms: dict[str, Room] = {}
        self._made: InferenceServerClient | None = None

    @property
    def _client(self) -> InferenceServerClient:
        if self._made is None:
            self._made = InferenceServerClient(self._address, channel_args=_CHANNEL)
        return self._made

    async def infer(self, request: ServerRequest, timeout_s: float) -> ServerReply:
        """Raises Overloaded, DeadlineExceeded, Unavailable, NotFound, or the class that the backend's code names."""
        name = request.model_name
        breaker = self._breakers.get(name) or Breaker()
        if not await breaker.admitted():
            raise Unavailable(breaker.reason)
        room = self._rooms.get(name) or await self._room(name, timeout_s)
        started = breaker.clock()
        arguments = {
            "model_name": name,
            "inputs": [_input(tensor.name, tensor.array) for tensor in request.tensors],
            "model_version": request.model_version,
            "outputs": [InferRequestedOutput(output) for output in request.outputs] or None,
            # Triton puts `[request id: ...]` before its texts; an id that closed it could begin a text of its own.
            "request_id": request.request_id.replace("]", ")"),
            "parameters": dict(request.parameters),
            "timeout": max(1, int(WAITING_SHARE * timeout_s * 1e6)),
            "client_timeout": timeout_s,
        }
        with room.taken():
            result = await self._call(name, lambda: self._client.infer(**arguments), request.model_version)
        self._known.add(name)
        self._answered.add((name, request.model_version))
        self._breakers.setdefault(name, breaker).succeeded(started)
        response = result.get_response()
        tensors = {output.name: result.as_numpy(output.name) for output in response.outputs}
        return ServerReply(response.model_name, response.model_version, tensors)

    async def live(self, timeout_s: float) -> bool:
        """Whether the server answers at all; False, never an error."""
        try:
            return bool(await self._client.is_server_live(client_timeout=timeout_s))
        except (InferenceServerException, grpc.RpcError):
            return False

    async def models(self, timeout_s: float) -> Sequence[ServerModel]:
        """The expected models, or all of the repository where none were named. Raises Unavailable."""
        if self._known:
            return [await self._state(name, timeout_s) for name in sorted(self._known)]
        index = await self._call("", lambda: self._client.get_model_repository_index(client_timeout=timeout_s))
        return [ServerModel(m.name, m.version, m.state == "READY", m.reason) for m in index.models]

    async def metadata(self, model_name: str, timeout_s: float) -> Mapping[str, Any]:
        """KServe V2 model metadata: name, versions, platform, inputs, outputs (shapes with the batch axis)."""
        answer = await self._call(
            model_name, lambda: self._client.get_model_metadata(model_name, client_timeout=timeout_s)
        )
        document: dict[str, Any] = MessageToDict(answer, preserving_proto_field_name=True)
        for tensor in (*document.get("inputs", ()), *document.get("outputs", ())):
            tensor["shape"] = [int(size) for size in tensor["shape"]]
        return document

    async def close(self) -> None:
        """Close the channel."""
        if self._made is not None:
            await self._made.close()
            self._made = None

    async def _state(self, name: str, timeout_s: float) -> ServerModel:
        breaker = self._breakers.get(name)
        if breaker is not None and breaker.is_open:
            return ServerModel(name, "", False, breaker.reason)
        try:
            versions = (await self.metadata(name, timeout_s)).get("versions", [""])
            ready = await self._call(name, lambda: self._client.is_model_ready(name, client_timeout=timeout_s))
        except NotFound as error:
            return ServerModel(name, "", False, str(error))
        except Unavailable as error:
            return ServerModel(name, "", False, str(error))
        return ServerModel(name, versions[-1], bool(ready), "" if ready else "the inference server says not ready")

    async def _room(self, name: str, timeout_s: float) -> Room:
        try:
            answer = await self._call(name, lambda: self._client.get_model_config(name, client_timeout=timeout_s))
        except NotFound:  # also of a server that is ending, where `infer` says so: what that says counts
            return Room(name, None)
        return self._rooms.setdefault(name, Room(name, room_of(answer.config)))

    async def _call(self, name: str, call: Callable[[], Awaitable[T]], version: str = "") -> T:
        started = time.monotonic()
        try:
            return await call()
        except InferenceServerException as error:
            status, text, cause = str(error.status() or ""), str(error.message() or ""), error
        except grpc.RpcError as error:
            status, text, cause = error.code().name if hasattr(error, "code") else "UNAVAILABLE", str(error), error
        raise self._refused(name, version, status, text, started) from cause

    def _refused(self, name: str, version: str, status: str, text: str, started: float) -> ServingError:
        word = status.removeprefix("StatusCode.")
        if not word:  # tritonclient itself refused to send it
            kind = ParameterInvalid if "arameter" in text else BodyInvalid
            return kind(text[:300])
        known = (name, version) in self._answered or (name in self._known and not version)
        refusal = refusal_of(word, text, name, known)
        if refusal.down and name in self._known:
            self._breakers.setdefault(name, Breaker()).failed(refusal.error.message, started)
        if refusal.error.code == "engine_failed":
            logger.error("%s: Triton answered %s: %s", name, word, text)
        return refusal.error


def infer_once(url: str, request: ServerRequest, timeout_s: float) -> ServerReply:
    """One request from a program without an event loop (CLI, tools)."""

    async def run() -> ServerReply:
        server = TritonServer(url)
        try:
            return await server.infer(request, timeout_s)
        finally:
            await server.close()

    return asyncio.run(run())


def _input(name: str, array: Array) -> InferInput:
    try:
        tensor = InferInput(name, list(array.shape), datatype_of(array))
    except ValueError as error:
        raise BodyInvalid(f"input {name}: {error}") from error
    tensor.set_data_from_numpy(np.ascontiguousarray(array))
    return tensor
