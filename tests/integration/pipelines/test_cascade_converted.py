"""A cascade from `convert` to Triton and `run`, alone and as the detector of another pipeline: the same answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper
from triton_support import _constant, _value, png, publish, settings_for

from converters.main import convert
from serving.backend import open_served
from serving.bundle import catalogue
from serving.config import Settings
from serving.pipelines import PipelineModel
from serving.streams.main import RunOptions, run_streams
from serving.streams.models import OpenedModel, in_process
from serving.triton.embedded import EmbeddedTriton
from serving.types import InferRequest, InferResponse, PixelArray

pytestmark = pytest.mark.needs("triton")
CASCADE = """
name: bright_faces
task: face
labels: [face]
steps:
  - {name: propose, do: cascade, model: bright_p, options: {threshold: 0.6}}
  - {name: refine, do: cascade, of: propose, model: bright_r, options: {most: 30}}
  - {name: faces, do: cascade, of: refine, model: bright_o}
answer: {fields: [faces]}
thresholds: {default: {score_threshold: 0.7}}
parity: {samples: samples}
"""
AROUND = """
name: who_is_bright
task: pipeline
steps:
  - {name: faces, do: infer, model: bright_faces, parameters: {score_threshold: 0.7}}
  - {name: parts, do: crop, of: faces, options: {quality: {min_side: 8}}}
answer: {detections: faces, fields: [parts]}
parity: {samples: samples}
"""
MARKS = [0.3, 0.7, 0.5, 0.35, 0.65, 0.4, 0.4, 0.6, 0.8, 0.8]


def bright_net(repository: Path, name: str, side: Sequence[int], outputs: Sequence[str]) -> None:
    """How bright each window of 12 pixels is, or the whole crop; regression says: right so."""
    plane = side[0] != side[1]
    kernel = [12, 12] if plane else list(side)
    nodes = [
        helper.make_node("AveragePool", ["x"], ["means"], kernel_shape=kernel, strides=[2, 2]),
        helper.make_node("ReduceMean", ["means"], ["grey"], axes=[1], keepdims=1),
        helper.make_node("Div", ["grey", "white"], ["map"]),
        helper.make_node("Identity" if plane else "Flatten", ["map"], ["probability"]),
        helper.make_node("Mul", ["probability", "nothing"], ["regression"]),
    ]
    shape: list[Any] = ["n", 1, (side[0] - 12) // 2 + 1, (side[1] - 12) // 2 + 1] if plane else ["n", 1]
    constants = [_constant("white", [255.0]), _constant("marks", MARKS), _constant("zeros", [0.0] * 10)]
    nothing = np.zeros((1, 4, 1, 1) if plane else (1, 4), np.float32)
    constants.append(onnx.numpy_helper.from_array(nothing, "nothing"))
    if "landmarks" in outputs:
        nodes += [helper.make_node("Mul", ["probability", "zeros"], ["none"]),
                  helper.make_node("Add", ["none", "marks"], ["landmarks"])]  # fmt: skip
    widths = {"probability": 1, "regression": 4, "landmarks": 10}
    values = [_value(out, [shape[0], widths[out], *shape[2:]]) for out in outputs]
    graph = helper.make_graph(nodes, name, [_value("x", ["n", 3, *side])], values, constants)
    document = {
        "task": "raw", "preprocess": None, "inputs": [{"name": "x", "shape": [3, *side]}], "outputs": list(outputs),
        "labels": ["face"], "batch": {"opt": 1, "max": 4 if plane else 16},
    }  # fmt: skip
    publish(repository, name, graph, document)


def bright(number: int) -> PixelArray:
    pixels = np.full((96, 128, 3), 20, np.uint8)
    cv2.rectangle(pixels, (20 + 4 * number, 16), (60 + 4 * number, 56), (255, 255, 255), -1)
    return pixels


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Path]]:
    folder = tmp_path_factory.mktemp("cascade")
    bright_net(folder / "repository", "bright_p", (480, 672), ("probability", "regression"))
    bright_net(folder / "repository", "bright_r", (24, 24), ("probability", "regression"))
    bright_net(folder / "repository", "bright_o", (48, 48), ("probability", "regression", "landmarks"))
    (folder / "samples").mkdir()
    for number in range(6):
        (folder / "samples" / f"{number}.png").write_bytes(png(bright(number)))
    settings = settings_for(folder)
    for name, text in (("bright_faces", CASCADE), ("who_is_bright", AROUND)):
        (folder / f"{name}.yaml").write_text(text)
        result = convert(folder / f"{name}.yaml", settings=settings, progress=lambda line: None)
        rows = {row["stage"]: row["status"] for row in result.certificate["rows"]}
        assert result.certificate["verdict"] == "passed", result.certificate["blockers"]
        assert [rows[stage] for stage in ("models", "server", "gateway")] == ["passed"] * 3
    yield settings, folder


def ask(settings: Settings, name: str, pixels: PixelArray) -> dict[str, Any]:
    with closing(open_served(catalogue(settings.repository)[0][name].version_dir, settings)) as model:
        (answer,) = model.infer([InferRequest(frame=pixels)])
        assert isinstance(answer, InferResponse) and isinstance(model, PipelineModel), answer
        return model.document(answer)


def test_triton_answers_as_this_process_alone_and_inside_another_pipeline(place: tuple[Settings, Path]) -> None:
    settings, _ = place
    alone, around = ask(settings, "bright_faces", bright(2)), ask(settings, "who_is_bright", bright(2))
    assert alone["task"] == "face" and alone["detections"] and around["task"] == "pipeline"
    for one, other in zip(alone["detections"], around["detections"], strict=True):
        assert (one["xyxy"], one["landmarks"]) == (other["xyxy"], other["landmarks"]) and other["parts"]["good"]
        assert 28 < (one["xyxy"][0] + one["xyxy"][2]) / 2 < 69 and len(one["landmarks"]) == 5
    with EmbeddedTriton(settings.repository, ["bright_faces", "who_is_bright"], settings) as triton:
        triton.wait_ready(60)
        for name, ours in (("bright_faces", alone), ("who_is_bright", around)):
            inputs = {"image": np.frombuffer(png(bright(2)), np.uint8)[None]}
            reply = triton.watch(name).control.infer(name, inputs, {}, ("result",), 10)
            theirs: dict[str, Any] = json.loads(reply["result"].tobytes())
            assert {**ours, "timings_ms": 0} == {**theirs, "timings_ms": 0}


def test_run_tracks_its_faces(place: tuple[Settings, Path], tmp_path: Path) -> None:
    settings, folder = place

    def open_model(name: str) -> OpenedModel:
        return in_process(open_served(catalogue(settings.repository)[0][name].version_dir, settings))

    options = RunOptions((str(folder / "samples"),), ("bright_faces",), track="bytetrack", results=tmp_path / "r.jsonl")
    assert run_streams(options, open_model).ok
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert len(lines) == 6 and all(line["outcome"] == "result" and line["task"] == "face" for line in lines)
    assert lines[-1]["detections"][0]["track_id"] >= 1
