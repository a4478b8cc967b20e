"""A canary: a known input whose answer is known, sent to a model again and again to see that it still works.

The first answer of a process is taken as known (the certificate has proven the model before it was served); later
ones have to name the same model, version and certificate and agree with it as the task says results agree.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from serving.bundle import ModelBundle
from serving.errors import EngineFailed, SpecInvalid
from serving.gateway.catalogue import IMAGE, RESULT
from serving.ports import ServerReply, ServerRequest, ServerTensor
from serving.tasks import task_named
from serving.types import DATATYPES, Classification, Detections, Embedding, RawTensors, TaskResult

_IDENTITY = ("model", "model_version", "certificate_id", "task", "image")
_SIDE = 96


def canary_picture(side: int = _SIDE) -> bytes:
    """A PNG of coloured slopes with a bright square, `side` x `side`, made without a picture library."""
    y, x = np.mgrid[0:side, 0:side]
    pixels = np.stack([x * 255 // side, y * 255 // side, (x + y) * 127 // side], axis=2).astype(np.uint8)
    pixels[side // 3 : side // 2, side // 3 : side // 2] = 250
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def canary_request(bundle: ModelBundle) -> ServerRequest:
    """The canary of a model: a picture, or for task raw its tensors filled with ones (free axes at their least)."""
    tensors: tuple[ServerTensor, ...]
    if bundle.spec.preprocess is not None:
        tensors = (ServerTensor(IMAGE, np.frombuffer(canary_picture(), np.uint8).reshape(1, -1)),)
        outputs: tuple[str, ...] = (RESULT,)
    else:
        tensors = tuple(
            ServerTensor(t.name, np.ones((1, *_least(t.shape, t.dynamic)), DATATYPES[t.datatype]))
            for t in bundle.spec.inputs
        )
        outputs = bundle.spec.outputs
    return ServerRequest(bundle.name, tensors, {}, outputs, str(bundle.version), "canary")


def _least(shape: tuple[int, ...], dynamic: Mapping[int, tuple[int, int]]) -> tuple[int, ...]:
    return tuple(dynamic.get(i, (1, 1))[0] if d < 0 else d for i, d in enumerate(shape))


class Canary:
    """Checks the answers of one model against the first."""

    def __init__(self, bundle: ModelBundle) -> None:
        self.request = canary_request(bundle)
        self._bundle = bundle
        self._task = task_named(bundle.spec.task)
        self._first: tuple[dict[str, Any], TaskResult] | None = None

    def check(self, reply: ServerReply) -> None:
        """Raises EngineFailed where the answer is not the right one."""
        document, result = self._read(reply)
        if self._first is None:
            self._expect_certified(document)
            self._first = (document, result)
            return
        expected, reference = self._first
        for key in _IDENTITY:
            if document.get(key) != expected.get(key):
                raise EngineFailed(f"canary: {key} was {expected.get(key)!r}, is {document.get(key)!r}")
        gate = self._task.default_gates["engine"]
        agreement = self._task.agree(reference, result, gate, self._bundle.spec)
        if not agreement.ok:
            raise EngineFailed(f"canary: another answer than before: {agreement.why}")

    def _expect_certified(self, document: Mapping[str, Any]) -> None:
        wanted = {"model": self._bundle.name, "model_version": str(self._bundle.version)}
        wanted["certificate_id"] = self._bundle.certificate_id
        for key, value in wanted.items():
            if document and document.get(key) != value:
                raise EngineFailed(f"canary: {key}: expected {value!r}, got {document.get(key)!r}")

    def _read(self, reply: ServerReply) -> tuple[dict[str, Any], TaskResult]:
        if self._bundle.spec.preprocess is None:
            missing = [name for name in self._bundle.spec.outputs if not reply.tensors.get(name, np.zeros(0)).size]
            if missing:
                raise EngineFailed(f"canary: no output {missing[0]}")
            return {}, RawTensors(dict(reply.tensors))
        try:
            document = orjson.loads(reply.tensors[RESULT].tobytes())
            return document, result_of(document)
        except (KeyError, TypeError, ValueError) as error:
            raise EngineFailed(f"canary: not a result document ({type(error).__name__})") from error


def result_of(document: Mapping[str, Any]) -> TaskResult:
    """The typed result that a document was written from; SpecInvalid for a task without one here."""
    if "detections" in document:
        rows = document["detections"]
        boxes = np.array([r["xyxy"] for r in rows], np.float32).reshape(-1, 4)
        confidence = np.array([r["confidence"] for r in rows], np.float32)
        return Detections(boxes, confidence, np.array([r["class_id"] for r in rows], np.int64))
    if "classes" in document:
        rows = document["classes"]
        class_id = np.array([r["class_id"] for r in rows], np.int64)
        return Classification(class_id, np.array([r["score"] for r in rows], np.float32))
    if "embedding" in document:
        return Embedding(np.array(document["embedding"], np.float32))
    raise SpecInvalid(f"a canary cannot read the result of task {document.get('task')!r}")
