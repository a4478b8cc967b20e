"""Small models whose answers can be told from pixels: a detector of bright squares, an embedder by colour."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.bundle import ModelBundle
from serving.errors import ServingError
from serving.gallery import Facts, Galleries, GalleryWriter, NewSample
from serving.pipelines import PipelineModel
from serving.spec import ModelSpec
from serving.tasks.face import Faces
from serving.types import (
    Classification,
    Detections,
    Embedding,
    ImageSize,
    InferRequest,
    InferResponse,
    PixelArray,
    TaskResult,
)

COLOURS: Mapping[str, tuple[int, int, int]] = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
Answer = Callable[[PixelArray, Mapping[str, Any]], TaskResult | ServingError]


class FakeModel:
    """Answers by a function of the pixels, and remembers how often and about what it was asked."""

    def __init__(self, name: str, task: str, answer: Answer, labels: Sequence[str] = (), **spec: Any) -> None:
        document = {
            "name": name, "task": task, "checkpoint": {"format": "onnx"}, "labels": list(labels),
            "preprocess": {"width": 8, "height": 8}, "batch": {"opt": 1, "max": 4}, **spec,
        }  # fmt: skip
        if task == "face":
            document["outputs"] = ["boxes", "scores", "landmarks"]
        made = ModelSpec.model_validate(document)
        self.bundle = ModelBundle(made, tuple(labels), 1, Path("none"), f"{name}cert", "openvino", "f32", 1, (), ())
        self._answer = answer
        self.calls: list[int] = []
        self.seen: list[PixelArray] = []
        self.closed = False

    def infer(self, requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
        self.calls.append(len(requests))
        answers: list[InferResponse | ServingError] = []
        for request in requests:
            assert request.frame is not None
            self.seen.append(request.frame)
            found = self._answer(request.frame, request.parameters)
            size = ImageSize(request.frame.shape[1], request.frame.shape[0])
            answers.append(found if isinstance(found, ServingError) else InferResponse(found, size, {"infer": 1.0}))
        return answers

    def close(self) -> None:
        self.closed = True


def squares(pixels: PixelArray, parameters: Mapping[str, Any]) -> Detections:
    """Every 20x20 square that is not black, from left to right, surest last; class 0 is wide, 1 is tall."""
    boxes = [
        [x, y, x + 20, y + 20]
        for y in range(0, pixels.shape[0] - 19, 20)
        for x in range(0, pixels.shape[1] - 19, 20)
        if pixels[y + 10, x + 10].max() > 100
    ]
    boxes.sort()
    count = len(boxes)
    confidence = np.linspace(0.6, 0.9, count, dtype=np.float32) if count else np.zeros(0, np.float32)
    keep = confidence >= float(parameters.get("score_threshold") or 0)
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(xyxy[keep], confidence[keep], np.zeros(int(keep.sum()), np.int64))


def faces(pixels: PixelArray, parameters: Mapping[str, Any]) -> Faces:
    found = squares(pixels, parameters)
    marks = np.array([[5, 7], [15, 7], [10, 11], [6, 15], [14, 15]], np.float32)
    points = found.xyxy[:, None, :2] + marks[None]
    return Faces(found.xyxy, found.confidence, found.class_id, landmarks=points.astype(np.float32).reshape(-1, 5, 2))


def colour(pixels: PixelArray, parameters: Mapping[str, Any]) -> Embedding:
    mean = pixels.reshape(-1, 3).mean(axis=0).astype(np.float32) + np.float32(1)
    return Embedding(mean / np.linalg.norm(mean))


def brightness(pixels: PixelArray, parameters: Mapping[str, Any]) -> Classification:
    return Classification(np.array([0]), np.array([float(pixels.mean() / 255)], np.float32))


def picture(*colours: str, gap: int = 1) -> PixelArray:
    """Squares of 20 pixels beside each other, with black ones between."""
    pixels = np.zeros((60, max(60, 20 * (1 + len(colours) * (1 + gap))), 3), np.uint8)
    for place, name in enumerate(colours):
        x = 20 + place * 20 * (1 + gap)
        pixels[20:40, x : x + 20] = COLOURS[name]
    return pixels


STEPS: list[dict[str, Any]] = [
    {"name": "boxes", "do": "infer", "model": "detector"},
    {"name": "crops", "do": "crop", "of": "boxes"},
    {"name": "look", "do": "infer", "of": "crops", "model": "embedder"},
    {"name": "who", "do": "match", "of": "look", "gallery": "people", "options": {"threshold": 0.95}},
]
ANSWER = {"detections": "boxes", "fields": ["who"]}


def spec_of(steps: Sequence[Mapping[str, Any]] = STEPS, answer: Mapping[str, Any] = ANSWER) -> ModelSpec:
    return ModelSpec.model_validate({"name": "demo", "task": "pipeline", "steps": list(steps), "answer": answer})


def models(**more: FakeModel) -> dict[str, FakeModel]:
    given = {
        "detector": FakeModel("detector", "detection", squares, ("wide", "tall")),
        "embedder": FakeModel("embedder", "embedding", colour),
    }
    return {**given, **more}


def pipeline(
    folder: Path, parts: Mapping[str, FakeModel], steps: Sequence[Mapping[str, Any]] = STEPS,
    answer: Mapping[str, Any] = ANSWER,
) -> PipelineModel:  # fmt: skip
    spec = spec_of(steps, answer)
    rows = spec.answer.detections
    model = next((s.model for s in spec.steps if s.name == rows), None)
    labels = parts[model].bundle.labels if model else ()
    bundle = ModelBundle(spec, labels, 1, folder, "chaincert", "pipeline", "f32", 1, (), ())
    return PipelineModel(bundle, parts, Galleries(folder / "galleries"))


def enrol(folder: Path, model: PipelineModel, *names: str, gallery: str = "people", step: str = "look") -> None:
    galleries = Galleries(folder / "galleries")
    reader = galleries.get(gallery) if gallery in galleries.names() else galleries.create(Facts(gallery, "demo"))
    with GalleryWriter(reader) as writer:
        for name in names:
            pixels = np.full((20, 20, 3), COLOURS[name], np.uint8)
            writer.enrol(name, [NewSample(colour(pixels, {}).vector)], fingerprint=model.plan.chain(step),
                         label=name.title())  # fmt: skip


def ask(model: PipelineModel, *pictures: PixelArray, **parameters: Any) -> list[dict[str, Any]]:
    answers = model.infer([InferRequest(frame=pixels, parameters=parameters) for pixels in pictures])
    return [model.document(a) if isinstance(a, InferResponse) else {"error": a} for a in answers]
