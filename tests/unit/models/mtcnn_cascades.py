"""The package's own cascade, out of its source, and ours in one process over the same weights in FP32."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.importers import ImportedModel
from models.importers.face_mtcnn import PLANE, WINDOW
from models.importers.package import Fetched
from serving.bundle import ModelBundle
from serving.gallery import Galleries
from serving.pipelines import PipelineModel
from serving.preprocess.pyramid import pyramid
from serving.served_model import ServedModel
from serving.spec import ModelSpec
from serving.tasks.boxes import iou_matrix
from serving.tasks.face import Faces
from serving.testing.fake_engine import FunctionEngine
from serving.types import ImageSize, InferRequest, InferResponse, PixelArray, TensorSpec

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("mtcnn_p", "mtcnn_r", "mtcnn_o")
Outputs = Mapping[str, Any]


def spec_of(name: str) -> ModelSpec:
    return ModelSpec.read(ROOT / "models" / f"{name}.yaml")


def served(spec: ModelSpec, net: Any) -> ServedModel:
    """A model of named tensors whose engine is a torch module."""
    import torch

    declared = spec.inputs[0]
    tensor = TensorSpec(declared.name, "FP32", declared.shape)

    def run(inputs: Outputs) -> dict[str, Any]:
        with torch.no_grad():
            found = net(torch.from_numpy(inputs[declared.name]))
        return dict(zip(spec.outputs, (part.numpy() for part in found), strict=True))

    bundle = ModelBundle(spec, ("face",), 1, Path("none"), f"{spec.name}c", "onnxruntime", "f32", 1, (tensor,), ())
    return ServedModel(bundle, FunctionEngine(run, (tensor,), ()))


def our_nets(imported: Callable[[str], ImportedModel]) -> dict[str, Any]:
    """Our modules with the imported weights, strictly loaded."""
    import torch

    nets = {}
    for name in NAMES:
        spec = spec_of(name)
        assert spec.factory is not None
        module, _, function = spec.factory.callable.partition(":")
        nets[name] = getattr(importlib.import_module(module), function)().eval()
        nets[name].load_state_dict(torch.load(imported(name).checkpoint, weights_only=True), strict=True)
    return nets


def our_cascade(nets: Mapping[str, Any], folder: Path) -> PipelineModel:
    """face_mtcnn by its own YAML."""
    bundle = ModelBundle(spec_of("face_mtcnn"), ("face",), 1, folder, "chain", "pipeline", "f32", 1, (), ())
    return PipelineModel(bundle, {name: served(spec_of(name), nets[name]) for name in NAMES}, Galleries(folder))


def ours(model: PipelineModel, pixels: PixelArray, **parameters: Any) -> Faces:
    (answer,) = model.infer([InferRequest(frame=pixels, parameters=parameters)])
    assert isinstance(answer, InferResponse), answer
    assert isinstance(answer.result, Faces)
    return answer.result


class Theirs:
    """facenet-pytorch's networks and cascade; its __init__ (which would bring another network) is not there.

    beyond: as it is, its proposal network has one more row and column of windows in a picture of odd size, which see a
    pixel beyond it. Without them it is what face_mtcnn computes.
    """

    def __init__(self, package: Fetched, beyond: bool) -> None:
        for name in [n for n in sys.modules if n.split(".")[0] == "facenet_pytorch"]:
            del sys.modules[name]
        sys.path.insert(0, str(package.folder))
        try:
            self.module = importlib.import_module("facenet_pytorch.models.mtcnn")
            self.parts = importlib.import_module("facenet_pytorch.models.utils.detect_face")
        finally:
            sys.path.remove(str(package.folder))
        self.nets = [getattr(self.module, kind)().eval() for kind in ("PNet", "RNet", "ONet")]
        assert self.nets[0].pool1.ceil_mode
        self.nets[0].pool1.ceil_mode = beyond

    def faces(self, pixels: PixelArray) -> Faces:
        """Its faces as ours are written: boxes from edge to edge, inside the picture, best first."""
        import torch

        size = ImageSize(pixels.shape[1], pixels.shape[0])
        smallest = WINDOW / pyramid(size, PLANE, WINDOW, 20.0, 0.709)[0].scale
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            boxes, points = self.parts.detect_face(
                [pixels], smallest, *self.nets, [0.6, 0.7, 0.7], 0.709, torch.device("cpu")
            )
        found = np.asarray(boxes[0], np.float32).reshape(-1, 5)
        xyxy = np.clip(found[:, :4] - [1, 1, 0, 0], 0, [size.width, size.height] * 2).astype(np.float32)
        order = np.argsort(-found[:, 4], kind="stable")
        marks = np.asarray(points[0], np.float32).reshape(-1, 5, 2)
        return Faces(xyxy[order], found[order, 4], np.zeros(len(order), np.int64), landmarks=marks[order])


def apart(one: Faces, other: Faces) -> tuple[float, float, float]:
    """Largest distance of a box's side and of a landmark in pixels, and of a score; infinite: other faces."""
    if len(one) != len(other):
        return np.inf, np.inf, np.inf
    if not len(one):
        return 0.0, 0.0, 0.0
    partner = iou_matrix(one.xyxy, other.xyxy).argmax(axis=1)
    assert one.landmarks is not None and other.landmarks is not None
    return (
        float(np.abs(one.xyxy - other.xyxy[partner]).max()),
        float(np.abs(one.landmarks - other.landmarks[partner]).max()),
        float(np.abs(one.confidence - other.confidence[partner]).max()),
    )


def equal(one: Faces, other: Faces) -> bool:
    """The same faces: to a twentieth of a pixel (documents have two decimals of landmarks), scores to a thousandth."""
    box, mark, score = apart(one, other)
    return box < 0.05 and mark < 0.05 and score < 1e-3
