"""A cascade of three stand-ins whose answers can be told from the pixels: what is red is a face."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from serving.bundle import ModelBundle
from serving.errors import ServingError
from serving.gallery import Galleries
from serving.pipelines import PipelineModel
from serving.spec import ModelSpec
from serving.stage_costs import StageCosts
from serving.types import FloatArray, InferRequest, InferResponse, PixelArray, RawTensors

Net = Callable[[FloatArray], list[FloatArray] | ServingError]
MARKS = np.array([0.3, 0.7, 0.5, 0.35, 0.65, 0.4, 0.4, 0.6, 0.8, 0.8], np.float32)
OUTPUTS = ("probability", "regression", "landmarks")
STAGES: list[dict[str, Any]] = [
    {"name": "propose", "do": "cascade", "model": "p", "options": {"threshold": 0.6}},
    {"name": "refine", "do": "cascade", "of": "propose", "model": "r", "options": {"most": 50}},
    {"name": "faces", "do": "cascade", "of": "refine", "model": "o"},
]


def redness(crop: FloatArray) -> FloatArray:
    """How red a crop is, 0..1: [1]."""
    return np.array([(crop[0] - crop[1]).mean() / 255], np.float32)


def p_net(plane: FloatArray) -> list[FloatArray]:
    """The redness of each window of 12 pixels, every second one."""
    sums = cv2.integral((plane[0] - plane[1]).astype(np.float64))
    means = (sums[12:, 12:] - sums[:-12, 12:] - sums[12:, :-12] + sums[:-12, :-12])[::2, ::2] / (144 * 255)
    return [means[None].astype(np.float32), np.zeros((4, *means.shape), np.float32)]


def r_net(crop: FloatArray) -> list[FloatArray]:
    return [redness(crop), np.zeros(4, np.float32)]


def o_net(crop: FloatArray) -> list[FloatArray]:
    return [redness(crop), np.zeros(4, np.float32), MARKS]


class NetModel:
    """A network of named tensors that remembers how many it was asked about at once."""

    def __init__(self, name: str, shape: Sequence[int], outputs: int, net: Net, most: int = 16) -> None:
        tensor = {"name": "x", "shape": list(shape)}
        spec = ModelSpec.model_validate(
            {"name": name, "task": "raw", "checkpoint": {"format": "onnx"}, "inputs": [tensor], "labels": ["face"],
             "outputs": OUTPUTS[:outputs], "batch": {"opt": 1, "max": most}}
        )  # fmt: skip
        self.bundle = ModelBundle(spec, ("face",), 1, Path("none"), f"{name}cert", "openvino", "f32", 1, (), ())
        self.net, self.calls, self.costs = net, list[int](), StageCosts()

    def infer(self, requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
        self.calls.append(len(requests))
        return [self._one(request) for request in requests]

    def _one(self, request: InferRequest) -> InferResponse | ServingError:
        assert request.tensors is not None
        tensor = request.tensors["x"]
        assert tensor.dtype == np.float32 and tensor.shape == self.bundle.spec.inputs[0].shape
        found = self.net(tensor)
        if isinstance(found, ServingError):
            return found
        names = self.bundle.spec.outputs
        return InferResponse(RawTensors(dict(zip(names, found, strict=True))), None, {"infer": 1.0})

    def close(self) -> None:
        pass


def nets(**instead: Net) -> dict[str, NetModel]:
    """The three by name; some of them may be replaced."""
    return {
        "p": NetModel("p", (3, 480, 672), 2, instead.get("p", p_net), most=2),
        "r": NetModel("r", (3, 24, 24), 2, instead.get("r", r_net)),
        "o": NetModel("o", (3, 48, 48), 3, instead.get("o", o_net)),
    }


def spec_of_cascade(steps: Sequence[Any] = STAGES, fields: Sequence[str] = ("faces",), **more: Any) -> ModelSpec:
    return ModelSpec.model_validate(
        {"name": "reds", "task": "face", "labels": ["face"], "steps": list(steps), "answer": {"fields": list(fields)},
         "thresholds": {"default": {"score_threshold": 0.7}}, **more}
    )  # fmt: skip


def cascade(folder: Path, parts: dict[str, NetModel], **more: Any) -> PipelineModel:
    bundle = ModelBundle(spec_of_cascade(**more), ("face",), 1, folder, "redscert", "pipeline", "f32", 1, (), ())
    return PipelineModel(bundle, parts, Galleries(folder / "galleries"))


def scene(width: int, height: int, *reds: tuple[int, int, int]) -> PixelArray:
    """Grey, with red squares of (x, y, side)."""
    pixels = np.full((height, width, 3), 60, np.uint8)
    for x, y, side in reds:
        pixels[y : y + side, x : x + side] = (255, 0, 0)
    return pixels
