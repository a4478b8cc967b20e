"""The port of the face detector equals face-api itself, from the file's bytes on."""

from __future__ import annotations

import csv
import json
import math
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from models.importers import ImportedModel
from models.importers.face_yolo import constants_of_source, dequantised
from serving.errors import ImportFailed
from serving.preprocess.decode import decode
from serving.preprocess.reference import prepare
from serving.spec import ModelSpec
from serving.tasks.boxes import iou_matrix
from serving.tasks.detection import TASK, DetectionOptions
from serving.types import Detections, ImageSize, ImageTransform

pytestmark = [pytest.mark.needs("torch"), pytest.mark.needs("npm"), pytest.mark.needs("opencv-doc")]
ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / ".cache" / "lockstep"
PICTURES = ("sample1.jpg", "sample3.jpg", "sample4.jpg", "sample6.jpg", "astronaut.png")
FLOATS = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def golden() -> Mapping[str, Any]:
    with np.load(ROOT / "tests" / "data" / "golden" / "face_yolo.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return ModelSpec.read(ROOT / "models" / "face_yolo.yaml")


@pytest.fixture(scope="module")
def model(imported: Callable[[str], ImportedModel]) -> ImportedModel:
    return imported("face_yolo")


@pytest.fixture(scope="module")
def network(model: ImportedModel) -> Any:
    import torch

    from models.architectures.tiny_yolo_v2 import tiny_yolo_v2

    net = tiny_yolo_v2(size=416)
    net.load_state_dict(torch.load(model.checkpoint, weights_only=True), strict=True)
    return net.eval()


def tensor_of(array: FLOATS) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))[None]


def run(network: Any, array: FLOATS) -> dict[str, Any]:
    import torch

    with torch.no_grad():
        boxes, scores = network(tensor_of(array))
    return {"boxes": boxes[0].numpy(), "scores": scores[0].numpy()}


def by_score(faces: FLOATS) -> FLOATS:
    return faces[np.argsort(-faces[:, 4], kind="stable")]


@pytest.mark.parametrize("name", PICTURES)
def test_the_port_equals_face_api(
    network: Any, model: ImportedModel, spec: ModelSpec, golden: Mapping[str, Any], name: str
) -> None:
    path = model.samples / name
    assert spec.preprocess is not None
    prepared = prepare(decode(path.read_bytes()), spec.preprocess).tensor
    raw = run(network, prepared)
    codes = network.codes(tensor_of(prepared))[0].permute(1, 2, 0).detach().numpy()
    expected = golden[f"{path.stem}/codes"]
    assert raw["boxes"].shape == (845, 4) and raw["scores"].shape == (845, 1)
    assert np.abs(codes - expected).max() < 1e-5 * np.abs(expected).max()
    height, width = decode(path.read_bytes()).shape[:2]
    # Their box is in parts of the content's size, rounded as JavaScript does (a half goes up).
    scale = tuple(math.floor(side * 416 / max(width, height) + 0.5) / side for side in (width, height))
    transform = ImageTransform(ImageSize(width, height), ImageSize(416, 416), (scale[0], scale[1]))
    found = TASK.postprocess(raw, transform, spec, {"score_threshold": 0.1})
    faces = by_score(golden[f"{path.stem}/faces"])
    assert isinstance(found, Detections) and len(found) == len(faces) > 0
    assert np.abs(found.confidence - faces[:, 4]).max() < 1e-4
    inside = np.clip(faces[:, :4], 0, [width, height, width, height])
    assert np.abs(found.xyxy - inside).max() < 0.05, "pixels of a source picture up to 1920 wide"


@pytest.mark.parametrize("name", PICTURES)
def test_the_way_back_of_boxes_is_face_apis_to_its_rounding(
    network: Any, model: ImportedModel, spec: ModelSpec, golden: Mapping[str, Any], name: str
) -> None:
    """face-api rounds the content's sides to whole pixels of 416 before it scales boxes back; ours does not round."""
    path = model.samples / name
    assert spec.preprocess is not None
    prepared = prepare(decode(path.read_bytes()), spec.preprocess)
    raw = run(network, prepared.tensor)
    found = TASK.postprocess(raw, prepared.transform, spec, {"score_threshold": 0.1})
    faces = by_score(golden[f"{path.stem}/faces"])
    assert isinstance(found, Detections) and len(found) == len(faces) > 0
    overlap = iou_matrix(faces[:, :4], found.xyxy)
    assert overlap.max(1).min() >= 0.98
    assert np.abs(found.confidence[overlap.argmax(1)] - faces[:, 4]).max() < 1e-4
    if name == "astronaut.png":
        assert np.abs(found.xyxy - faces[:, :4]).max() < 0.05, "a square picture leaves nothing to round"


def test_faces_counted_by_eye_are_found(network: Any, model: ImportedModel, spec: ModelSpec) -> None:
    assert model.labels is not None and spec.preprocess is not None and spec.expect is not None
    with model.labels.open(encoding="utf-8", newline="") as source:
        rows = list(csv.DictReader(source))

    def recall(swapped: bool) -> float:
        assert spec.preprocess is not None
        results = []
        for row in rows:
            prepared = prepare(decode((model.samples / row["file"]).read_bytes()), spec.preprocess)
            raw = run(network, prepared.tensor[::-1] if swapped else prepared.tensor)
            results.append(TASK.postprocess(raw, prepared.transform, spec, spec.thresholds["default"]))
        return TASK.score("count_recall", results, [row["label"] for row in rows], spec)

    assert recall(False) >= spec.expect.at_least
    assert recall(True) < spec.expect.at_least, "BGR must fail the spec's `expect`"


def test_constants_are_the_sources_and_in_effect(model: ImportedModel, spec: ModelSpec) -> None:
    source = constants_of_source(CACHE)
    assert source == {"nms_iou": 0.4}
    in_effect = DetectionOptions.model_validate(spec.options).model_dump()
    assert {name: in_effect[name] for name in source} == source


def test_samples_are_enough(model: ImportedModel) -> None:
    pictures = [path for path in model.samples.iterdir() if path.suffix != ".csv"]
    assert len(pictures) >= 32 and all(decode(path.read_bytes()).size for path in pictures)


def test_truncated_weights_are_refused(model: ImportedModel) -> None:
    folder = next(CACHE.glob("packages/@vladmandic__face-api-*/model"))
    manifest = json.loads((folder / "tiny_face_detector_model-weights_manifest.json").read_text("utf-8"))
    weights = (folder / "tiny_face_detector_model.bin").read_bytes()
    with pytest.raises(ImportFailed, match="expected uint8 within"):
        dequantised(manifest, weights[:-1])
    with pytest.raises(ImportFailed, match="bytes, got"):
        dequantised(manifest, weights + b"\0")


@pytest.mark.parametrize(("size", "message"), [(400, "multiple of 32"), (416, r"expected \[N, 3, 416, 416\]")])
def test_other_sizes_are_refused(size: int, message: str) -> None:
    import torch

    from models.architectures.tiny_yolo_v2 import tiny_yolo_v2

    with pytest.raises(ValueError, match=message):
        tiny_yolo_v2(size=size)(torch.zeros(1, 3, 448, 416))


@pytest.mark.long
def test_golden_outputs_come_out_again(model: ImportedModel, golden: Mapping[str, Any], tmp_path: Path) -> None:
    from models.golden.face_yolo import answers

    (tmp_path / "package.json").write_text("{}", "utf-8")
    wanted = ["@vladmandic/face-api@1.7.15", "@tensorflow/tfjs@4.22.0", "@tensorflow/tfjs-backend-wasm@4.22.0"]
    install = ["npm", "install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund", *wanted]
    subprocess.run(install, cwd=tmp_path, check=True, capture_output=True, timeout=250)
    again = answers(tmp_path, [model.samples / "astronaut.png"])
    for key, value in again.items():
        assert np.abs(value - golden[key]).max() < 1e-4 * np.abs(value).max()
