"""An inference server without Triton: for tests of what stands before it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import orjson

from serving.errors import NotFound
from serving.gateway.catalogue import Catalogue
from serving.gateway.readiness import REQUEST_ID
from serving.ports import ServerModel, ServerReply, ServerRequest
from serving.types import Array

PICTURE: bytes = cv2.imencode(".png", np.arange(96 * 96 * 3, dtype=np.uint8).reshape(96, 96, 3))[1].tobytes()


class StubServer:
    """Keeps what it was asked; `hook(request)` may raise, wait or answer in its place."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.requests: list[ServerRequest] = []
        self.hook: Callable[[ServerRequest], Any] = lambda request: None
        self.score = 0.9

    def document(self, name: str) -> dict[str, Any]:
        bundle = self.catalogue.get(name)
        row = {"class_id": 1, "label": "one", "score": self.score}
        box = {"xyxy": [1.0, 2.0, 30.0, 40.0], "confidence": 0.9, "class_id": 0, "label": "zero", "origin": "measured"}
        fields: dict[str, dict[str, Any]] = {
            "classification": {"classes": [row]},
            "detection": {"detections": [box]},
            "embedding": {"embedding": [0.6, 0.8]},
        }
        return {
            "schema": 1,
            "model": name,
            "model_version": str(bundle.version),
            "certificate_id": bundle.certificate_id,
            "task": bundle.spec.task,
            "image": {"width": 96, "height": 96},
            **fields[bundle.spec.task],
            "timings_ms": {"decode": 1.5, "preprocess": 0.25, "infer": 2.0, "postprocess": 0.125},
        }

    async def infer(self, request: ServerRequest, timeout_s: float) -> ServerReply:
        if request.request_id != REQUEST_ID:
            self.requests.append(request)
            answer = self.hook(request)
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer is not None:
                assert isinstance(answer, ServerReply)
                return answer
        if request.model_name == "adder":
            return ServerReply("adder", "1", {"y": np.asarray(request.tensors[0].array, np.float32) + 1})
        result = np.frombuffer(orjson.dumps(self.document(request.model_name)), np.uint8).reshape(1, -1)
        tensors: dict[str, Array] = {
            "result": result,
            "class_id": np.array([[1]], np.int32),
            "score": np.array([[self.score]], np.float32),
        }
        wanted = request.outputs or tuple(tensors)
        return ServerReply(request.model_name, "1", {n: tensors[n] for n in wanted})

    async def live(self, timeout_s: float) -> bool:
        return True

    async def models(self, timeout_s: float) -> Sequence[ServerModel]:
        return [ServerModel(b.name, str(b.version), True) for b in self.catalogue]

    async def metadata(self, model_name: str, timeout_s: float) -> Mapping[str, Any]:
        if model_name not in self.catalogue.bundles:
            raise NotFound(f"no model {model_name}")
        if model_name == "adder":
            tensors = (
                [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
                [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
            )
        else:
            tensors = (
                [{"name": "image", "datatype": "UINT8", "shape": [-1, -1]}],
                [
                    {"name": "class_id", "datatype": "INT32", "shape": [-1, -1]},
                    {"name": "score", "datatype": "FP32", "shape": [-1, -1]},
                    {"name": "result", "datatype": "UINT8", "shape": [-1, -1]},
                ],
            )
        return {
            "name": model_name,
            "versions": ["1"],
            "platform": "python",
            "inputs": tensors[0],
            "outputs": tensors[1],
        }

    async def close(self) -> None:
        return None
