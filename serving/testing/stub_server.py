"""An inference server without Triton, and a catalogue of models without artifacts: for tests of what is before it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from serving.bundle import ModelBundle
from serving.errors import NotFound
from serving.gateway.canary import canary_picture
from serving.gateway.catalogue import Catalogue
from serving.ports import ServerModel, ServerReply, ServerRequest
from serving.spec import ModelSpec
from serving.types import Array

PICTURE = canary_picture()
_FACTORY = {"callable": "models.none:build"}
_PREPROCESS = {"width": 32, "height": 32}


def make_bundle(folder: Path, name: str, task: str, **spec: Any) -> ModelBundle:
    """A served version without artifacts; its certificate files are there."""
    version_dir = folder / name / "1"
    version_dir.mkdir(parents=True)
    (version_dir / "certificate.cpu.json").write_text('{"schema": 1, "verdict": "passed"}')
    (version_dir / "certificate.cpu.html").write_text("<!doctype html><title>certificate</title>")
    return ModelBundle(
        spec=ModelSpec.model_validate({"name": name, "task": task, "factory": _FACTORY, **spec}),
        labels=("zero", "one", "two"),
        version=1,
        version_dir=version_dir,
        certificate_id="abcdef012345",
        engine="openvino",
        precision="f32",
        threads=1,
        engine_inputs=(),
        engine_outputs=(),
    )


def stub_catalogue(folder: Path) -> Catalogue:
    """A classifier, a detector with a scenario, an embedder and a raw model."""
    tensors = [{"name": "x", "datatype": "FP32", "shape": [4]}]
    bundles = [
        make_bundle(folder, "digits", "classification", preprocess=_PREPROCESS),
        make_bundle(
            folder,
            "persons",
            "detection",
            preprocess=_PREPROCESS,
            thresholds={"night": {"score_threshold": 0.2}},
        ),
        make_bundle(folder, "faces", "embedding", preprocess=_PREPROCESS),
        make_bundle(folder, "adder", "raw", inputs=tensors, outputs=["y"]),
    ]
    return Catalogue({b.name: b for b in bundles})


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
        if request.request_id != "canary":
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
