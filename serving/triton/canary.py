"""A canary: one stored request and the answer it must get. Readiness means that the *right answer* came back.

A server can say ready while every request fails, or answers nonsense; so a model is ready when its canary's answer
is the one that the same version gave in process. Comparison is by decision, wide enough for what batching with other
requests moves, far narrower than any wrong preprocessing, wrong weights or empty output.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from serving.errors import StorageFailed
from serving.ports import ServerRequest, ServerTensor
from serving.spec import ModelSpec
from serving.tasks.boxes import match_boxes
from serving.types import DATATYPES, Array, Classification, Detections, Embedding, RawTensors, TaskResult, datatype_of

CANARY = "canary.json"
SCORE_TOLERANCE = 0.05
COSINE = 0.99
BOX_IOU = 0.85
# Boxes nearly as sure as the surest are compared; the others may fall on either side of a threshold.
SURE_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class Canary:
    """`inputs` and `expected` are named arrays with the batch axis 1, as they cross to and from the server."""

    model_name: str
    task: str
    inputs: Mapping[str, Array]
    parameters: Mapping[str, str | int | bool]
    expected: Mapping[str, Array]

    def request(self) -> ServerRequest:
        """What is sent."""
        tensors = [ServerTensor(name, array) for name, array in self.inputs.items()]
        return ServerRequest(self.model_name, tensors, self.parameters, tuple(self.expected))

    def verdict(self, tensors: Mapping[str, Array]) -> str:
        """Empty where the answer is right, else what is wrong with it."""
        for name, array in self.expected.items():
            if name not in tensors:
                return f"canary: output {name} is missing"
            if array.size and not tensors[name].size:
                return f"canary: output {name} is empty"
        try:
            expected, got = result_of(self.task, self.expected), result_of(self.task, tensors)
        except (ValueError, KeyError, IndexError) as error:
            return f"canary: the answer cannot be read: {error}"
        wrong = difference(self.task, expected, got)
        return f"canary: {wrong}" if wrong else ""

    def write(self, path: Path) -> None:
        """Write the file whole or not at all."""
        document = {
            "schema": 1,
            "model_name": self.model_name,
            "task": self.task,
            "inputs": _pack(self.inputs),
            "parameters": dict(self.parameters),
            "expected": _pack(self.expected),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(json.dumps(document), "utf-8")
        fresh.replace(path)

    @classmethod
    def read(cls, path: Path) -> Canary:
        """Read a file that `write` made. Raises StorageFailed."""
        try:
            d = json.loads(path.read_bytes())
            return cls(d["model_name"], d["task"], _unpack(d["inputs"]), d["parameters"], _unpack(d["expected"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageFailed(f"{path}: not a canary: {error}", hint="remove it, it is made again") from error


def _pack(arrays: Mapping[str, Array]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "datatype": datatype_of(array),
            "shape": list(array.shape),
            "data": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(),
        }
        for name, array in arrays.items()
    ]


def _unpack(entries: list[dict[str, Any]]) -> dict[str, Array]:
    return {
        e["name"]: np.frombuffer(base64.b64decode(e["data"]), DATATYPES[e["datatype"]]).reshape(e["shape"])
        for e in entries
    }


def result_of(task: str, tensors: Mapping[str, Array]) -> TaskResult:
    """A task's typed tensors (batch axis 1) as its result. Raises ValueError or KeyError where they do not fit."""
    rows = {name: array[0] for name, array in tensors.items()}
    if "xyxy" in rows:
        return Detections(rows["xyxy"], rows["confidence"], rows["class_id"].astype(np.int64))
    if task == "classification":
        return Classification(rows["class_id"].astype(np.int64), rows["score"])
    if task == "embedding":
        return Embedding(rows["embedding"])
    return RawTensors(rows)


def difference(task: str, expected: TaskResult, got: TaskResult) -> str:
    """What differs beyond what batching moves; empty where nothing does."""
    if isinstance(expected, Classification) and isinstance(got, Classification):
        return _classes_differ(expected, got)
    if isinstance(expected, Detections) and isinstance(got, Detections):
        return _boxes_differ(expected, got)
    if isinstance(expected, Embedding) and isinstance(got, Embedding):
        return _vectors_differ("embedding", expected.vector, got.vector)
    if isinstance(expected, RawTensors) and isinstance(got, RawTensors):
        reasons = (_vectors_differ(name, a, got.tensors[name]) for name, a in expected.tensors.items())
        return next((reason for reason in reasons if reason), "")
    return f"a {type(expected).__name__} became a {type(got).__name__}"


def _classes_differ(expected: Classification, got: Classification) -> str:
    scores = dict(zip(got.class_id.tolist(), got.score.tolist(), strict=True))
    for class_id, score in zip(expected.class_id.tolist(), expected.score.tolist(), strict=True):
        if abs(scores.get(class_id, 0.0) - score) > SCORE_TOLERANCE:
            return f"class {class_id}: score {score:.3f} became {scores.get(class_id, 0.0):.3f}"
    return ""


def _boxes_differ(expected: Detections, got: Detections) -> str:
    sure = expected.confidence >= SURE_SHARE * float(expected.confidence.max(initial=0.0))
    pairs, alone = match_boxes(expected.xyxy[sure], expected.class_id[sure], got.xyxy, got.class_id)
    if alone:
        return f"{len(alone)} of {int(sure.sum())} sure boxes have no partner"
    for i, j, overlap in pairs:
        off = abs(float(expected.confidence[sure][i] - got.confidence[j]))
        if overlap < BOX_IOU or off > SCORE_TOLERANCE:
            return f"box {i}: IoU {overlap:.3f}, confidence off by {off:.3f}"
    return ""


def _vectors_differ(name: str, expected: Array, got: Array) -> str:
    if expected.shape != got.shape:
        return f"{name}: shape {list(expected.shape)} became {list(got.shape)}"
    a, b = expected.astype(np.float64).ravel(), got.astype(np.float64).ravel()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / norms if norms else float(np.array_equal(a, b))
    return "" if cosine >= COSINE else f"{name}: cosine to the expected values is {cosine:.4f}"


def make_inputs(spec: ModelSpec, width: int = 320, height: int = 240) -> dict[str, Array]:
    """The canary's input: a drawn photograph-like JPEG, or seeded numbers of a raw model's shapes."""
    rng = np.random.default_rng(20240131)
    if spec.sound is not None:
        return {spec.encoded_input: np.frombuffer(_sound(rng), np.uint8)[None]}
    if spec.task != "raw":
        return {"image": np.frombuffer(_picture(rng, width, height), np.uint8)[None]}
    inputs: dict[str, Array] = {}
    for tensor in spec.inputs:
        shape = [tensor.dynamic[a][0] if a in tensor.dynamic else size for a, size in enumerate(tensor.shape)]
        kind = DATATYPES[tensor.datatype]
        numbers = rng.random([1, *shape]) * (1 if tensor.datatype == "FP32" else 2)
        inputs[tensor.name] = numbers.astype(kind)
    return inputs


def _sound(rng: np.random.Generator, rate: int = 16_000) -> bytes:
    """A second of a gliding tone with noise, silent at both ends, as WAV."""
    at = np.arange(rate) / rate
    loud = np.clip(np.minimum(at - 0.2, 0.8 - at) * 20, 0, 1)
    wave = 0.4 * np.sin(2 * np.pi * (150 + 200 * at) * at) * loud + 0.02 * rng.standard_normal(rate)
    samples: bytes = np.clip(wave * 32767, -32768, 32767).astype("<i2").tobytes()
    sizes = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(samples), b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate,
                        2, 16, b"data", len(samples))  # fmt: skip
    return sizes + samples


def _picture(rng: np.random.Generator, width: int, height: int) -> bytes:
    coarse = rng.integers(0, 256, (12, 16, 3), np.uint8)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(12):
        centre, colour = rng.integers(20, 220, 2).tolist(), rng.integers(0, 256, 3).tolist()
        cv2.circle(picture, centre, int(rng.integers(8, 48)), colour, -1)
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert done
    return data.tobytes()
