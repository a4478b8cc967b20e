"""What the supervisor says to its Triton: KServe V2 over plain HTTP on loopback, with the key of this start.

HTTP by the standard library, not gRPC: the supervisor's process forks gateway workers, and a gRPC channel made before a
fork does not survive it.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from serving.errors import EngineFailed, Unavailable
from serving.triton.home import KEY_HEADER
from serving.types import DATATYPES, Array, datatype_of

_JSON_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True)
class _Answer:
    """`json_length`: how much of the body is JSON, the rest being tensors; None where all of it is."""

    status: int
    body: bytes
    json_length: int | None


@dataclass(frozen=True, slots=True)
class Control:
    """One server, by port and key. Methods raise Unavailable when it cannot be reached or does not answer in time."""

    port: int
    key: str

    def live(self, timeout_s: float = 1.0) -> bool:
        """Whether it answers at all."""
        try:
            return self._call("GET", "/v2/health/live", timeout_s).status == 200
        except Unavailable:
            return False

    def index(self, timeout_s: float = 2.0) -> list[dict[str, str]]:
        """Name, version, state and reason of every model in its repository."""
        answer = self._call("POST", "/v2/repository/index", timeout_s, b"{}")
        if answer.status != 200:
            raise Unavailable(f"Triton's repository index: status {answer.status}: {_error(answer.body)}")
        entries: list[dict[str, str]] = json.loads(answer.body)
        return entries

    def load(self, model: str, timeout_s: float = 120.0) -> None:
        """Load, or load again where its config.pbtxt changed; waits. Raises EngineFailed with Triton's reason."""
        self._change(model, "load", timeout_s)

    def unload(self, model: str, timeout_s: float = 30.0) -> None:
        """Take a model out of service."""
        self._change(model, "unload", timeout_s)

    def _change(self, model: str, what: str, timeout_s: float) -> None:
        answer = self._call("POST", f"/v2/repository/models/{quote(model)}/{what}", timeout_s, b"{}")
        if answer.status != 200:
            raise EngineFailed(f"{model}: {what} failed: {_error(answer.body)}")

    def executions(self, model: str, timeout_s: float = 1.0) -> int:
        """How many batches the model has executed since it was loaded."""
        answer = self._call("GET", f"/v2/models/{quote(model)}/stats", timeout_s)
        if answer.status != 200:
            raise EngineFailed(f"{model}: no statistics: {_error(answer.body)}")
        return sum(int(entry["execution_count"]) for entry in json.loads(answer.body)["model_stats"])

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        parameters: Mapping[str, Any],
        outputs: Sequence[str],
        timeout_s: float,
    ) -> dict[str, Array]:
        """One inference by the binary tensor extension. Raises EngineFailed with Triton's text."""
        blobs = [np.ascontiguousarray(array).tobytes() for array in inputs.values()]
        document = {
            "parameters": dict(parameters),
            "inputs": [
                {"name": n, "shape": a.shape, "datatype": datatype_of(a), "parameters": {"binary_data_size": len(blob)}}
                for (n, a), blob in zip(inputs.items(), blobs, strict=True)
            ],
            "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in outputs],
        }
        head = json.dumps(document).encode()
        headers = {_JSON_LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}
        data = b"".join([head, *blobs])
        answer = self._call("POST", f"/v2/models/{quote(model)}/infer", timeout_s, data, headers)
        if answer.status != 200:
            raise EngineFailed(_error(answer.body))
        return _tensors(answer)

    def _call(
        self,
        method: str,
        path: str,
        timeout_s: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> _Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, path, body, {KEY_HEADER: self.key, **(headers or {})})
            answer = connection.getresponse()
            length = answer.headers.get(_JSON_LENGTH)
            return _Answer(answer.status, answer.read(), int(length) if length else None)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"Triton does not answer: {error or type(error).__name__}") from error
        finally:
            connection.close()


def _tensors(answer: _Answer) -> dict[str, Array]:
    position = len(answer.body) if answer.json_length is None else answer.json_length
    arrays: dict[str, Array] = {}
    for output in json.loads(answer.body[:position])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        data = answer.body[position : position + size]
        arrays[output["name"]] = np.frombuffer(data, DATATYPES[output["datatype"]]).reshape(output["shape"])
        position += size
    return arrays


def _error(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]).partition("\n")[0]  # what follows are the places in our code
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")
