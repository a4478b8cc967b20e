"""A FakeTriton that serves the stub bundles: the answers that such models would give, without looking at a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import orjson

from serving.bundle import ModelBundle
from serving.gateway.readiness import REQUEST_ID
from serving.ports import ServerReply, ServerRequest
from serving.tasks import task_named
from serving.testing.fake_triton import FakeModel, FakeTriton
from serving.types import Array, AudioEvents, Classification, Detections, Embedding, RawTensors, TaskResult, TensorSpec

PICTURE: bytes = cv2.imencode(".png", np.arange(96 * 96 * 3, dtype=np.uint8).reshape(96, 96, 3))[1].tobytes()
_PICTURES = (TensorSpec("image", "UINT8", (-1,)), TensorSpec("frame", "UINT8", (-1, -1, 3)))
_SOUNDS = (TensorSpec("audio", "UINT8", (-1,)),)
_RESULT = TensorSpec("result", "UINT8", (-1,))

Hook = Callable[[ServerRequest], Mapping[str, Array] | None]


def _nothing(request: ServerRequest) -> None:
    return None


class StubServer(FakeTriton):
    """`hook` sees every request but canaries, `canary_hook` those; either may raise, or answer in the model's place."""

    def __init__(self, bundles: Mapping[str, ModelBundle], seconds: float = 0.0) -> None:
        self.bundles = bundles
        self.hook: Hook = _nothing
        self.canary_hook: Hook = _nothing
        super().__init__([self._model(bundle, seconds) for bundle in bundles.values()])

    @property
    def asked(self) -> list[ServerRequest]:
        """The requests that came, without canaries."""
        return [request for request in self.requests if request.request_id != REQUEST_ID]

    async def infer(self, request: ServerRequest, timeout_s: float) -> ServerReply:
        """As FakeTriton; canaries wait for nobody, so that a slow model can still be ready."""
        if request.request_id == REQUEST_ID:
            return ServerReply(request.model_name, request.model_version, self._compute(request))
        return await super().infer(request, timeout_s)

    def document(self, name: str) -> dict[str, Any]:
        """The result document of a model."""
        bundle = self.bundles[name]
        return {
            "schema": 1,
            "model": name,
            "model_version": str(bundle.version),
            "certificate_id": bundle.certificate_id,
            "task": bundle.spec.task,
            **({"image": {"width": 96, "height": 96}} if bundle.spec.takes_pictures else {}),
            **task_named(bundle.spec.task).to_document(_result(bundle), bundle.labels),
            "timings_ms": {"decode": 1.5, "preprocess": 0.25, "infer": 2.0, "postprocess": 0.125},
        }

    def _model(self, bundle: ModelBundle, seconds: float) -> FakeModel:
        raw = bundle.spec.task == "raw"
        files = _SOUNDS if bundle.spec.sound is not None else _PICTURES
        inputs = [TensorSpec(t.name, t.datatype, t.shape) for t in bundle.spec.inputs] if raw else files
        typed = [TensorSpec("y", "FP32", (4,))] if raw else task_named(bundle.spec.task).outputs(bundle.spec)
        return FakeModel(
            bundle.name,
            self._compute,
            inputs,
            [*typed, _RESULT],
            str(bundle.version),
            optional=not raw,
            seconds=seconds,
        )

    def _compute(self, request: ServerRequest) -> Mapping[str, Array]:
        hook = self.canary_hook if request.request_id == REQUEST_ID else self.hook
        answer = hook(request)
        if answer is not None:
            return answer
        bundle = self.bundles[request.model_name]
        rows = len(request.tensors[0].array)
        result = np.frombuffer(orjson.dumps(self.document(request.model_name)), np.uint8)
        answers = {"result": np.stack([result] * rows)}
        if bundle.spec.task == "raw":
            return {"y": np.asarray(request.tensors[0].array, np.float32) + 1, **answers}
        typed = task_named(bundle.spec.task).to_tensors(_result(bundle), bundle.spec)
        return {**{name: np.stack([array] * rows) for name, array in typed.items()}, **answers}


def _result(bundle: ModelBundle) -> TaskResult:
    if bundle.spec.task == "classification":
        return Classification(np.array([1]), np.array([0.9], np.float32))
    if bundle.spec.task == "embedding":
        return Embedding(np.array([0.6, 0.8], np.float32))
    if bundle.spec.task == "raw":
        return RawTensors({"y": np.zeros(4, np.float32)})
    if bundle.spec.task == "audio":
        one = np.array([1])
        return AudioEvents(one, one * 0, one * 5, one, np.array([0.9], np.float32), one == 2, (0, 10))
    box = np.array([[1, 2, 30, 40]], np.float32)
    return Detections(box, np.array([0.9], np.float32), np.array([0]))
