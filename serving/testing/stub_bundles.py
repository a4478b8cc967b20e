"""Served models without artifacts: specs, versions and certificate files, for tests of what only looks at these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from serving.bundle import ModelBundle
from serving.ports import ServerRequest, ServerTensor
from serving.spec import ModelSpec
from serving.types import Array

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


def stub_bundles(folder: Path) -> dict[str, ModelBundle]:
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
    return {b.name: b for b in bundles}


@dataclass(frozen=True, slots=True)
class StubCanary:
    """Asks for the result; right is what names this model, version and certificate, and the usual class."""

    bundle: ModelBundle

    def request(self) -> ServerRequest:
        """What is sent."""
        if self.bundle.spec.task == "raw":
            return ServerRequest(self.bundle.name, [ServerTensor("x", np.ones((1, 4), np.float32))])
        image = np.zeros((1, 3), np.uint8)
        sent = ServerTensor(self.bundle.spec.encoded_input, image)
        return ServerRequest(self.bundle.name, [sent], outputs=("result",))

    def verdict(self, tensors: Mapping[str, Array]) -> str:
        """Empty where it is right."""
        if self.bundle.spec.task == "raw":
            return "" if tensors["y"].tolist() == [[2, 2, 2, 2]] else "y is wrong"
        document = orjson.loads(tensors["result"].tobytes())
        same = document["model"] == self.bundle.name and document["certificate_id"] == self.bundle.certificate_id
        right = all(row["class_id"] == 1 for row in document.get("classes", []))
        return "" if same and right else f"canary: got {document}"


def stub_canaries(bundles: Mapping[str, ModelBundle]) -> dict[str, StubCanary]:
    """One for each."""
    return {name: StubCanary(bundle) for name, bundle in bundles.items()}
