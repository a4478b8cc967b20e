"""RetinaFace with its decoding in the graph equals the package's own postprocessing, run from its own source."""

from __future__ import annotations

import csv
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.importers import ImportedModel
from models.importers.face_retina import PACKAGE, SIZE, constants_of_source, training_side, weights_of, with_decoding
from models.importers.manifest import read_manifest
from models.importers.package import Fetched, fetch
from serving.engines.onnxruntime import load
from serving.preprocess.decode import decode
from serving.preprocess.reference import prepare
from serving.spec import ModelSpec
from serving.tasks.boxes import iou_matrix
from serving.tasks.face import TASK, Faces
from serving.types import ImageSize, ImageTransform

pytestmark = [pytest.mark.needs("torch"), pytest.mark.needs("npm"), pytest.mark.needs("opencv-doc")]
ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / ".cache" / "lockstep"
SPEC = ModelSpec.read(ROOT / "models" / "face_retina.yaml")
PLANE = ImageTransform(ImageSize(SIZE, SIZE), ImageSize(SIZE, SIZE), (1.0, 1.0))


@pytest.fixture(scope="module")
def model(imported: Callable[[str], ImportedModel]) -> ImportedModel:
    return imported("face_retina")


@pytest.fixture(scope="module")
def package(model: ImportedModel) -> Fetched:
    return fetch(read_manifest()[PACKAGE], CACHE, print)


@pytest.fixture(scope="module")
def engine(model: ImportedModel) -> Any:
    found = load(model.checkpoint, threads=1)
    yield found
    found.close()


@pytest.fixture
def theirs(package: Fetched, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package's postprocess.py; its __init__ (which would open the network) is not there."""
    monkeypatch.syspath_prepend(str(package.folder))
    for name in [n for n in sys.modules if n == "retinaface" or n.startswith("retinaface.")]:
        monkeypatch.delitem(sys.modules, name)
    return importlib.import_module("retinaface.postprocess")


@pytest.mark.parametrize("name", ["sample1.jpg", "sample5.jpg", "astronaut.png", "orange.jpg"])
def test_boxes_scores_and_landmarks_are_the_packages_own(
    engine: Any, model: ImportedModel, package: Fetched, theirs: Any, tmp_path: Path, name: str
) -> None:
    import onnxruntime

    tensor = training_side((model.samples / name).read_bytes())[1][None]
    raw = {key: value[0] for key, value in engine.run({"input": tensor}).items()}
    ours = TASK.postprocess(raw, PLANE, SPEC, {"score_threshold": 0.5})
    session = onnxruntime.InferenceSession(weights_of(package), providers=["CPUExecutionProvider"])
    (faces,) = theirs.postprocess(session.run(None, {"input": tensor}), *tensor.shape, score_threshold=0.5)
    assert len(faces) == len(ours)
    if not faces:
        return
    assert ours.landmarks is not None
    boxes = np.array([[f.x, f.y, f.x + f.width, f.y + f.height] for f in faces], np.float32)
    for face, partner in zip(faces, iou_matrix(boxes, ours.xyxy).argmax(axis=1), strict=True):
        assert face.score == pytest.approx(ours.confidence[partner], abs=1e-5)
        marks = np.array([[p.x, p.y] for p in face.landmarks], np.float32)
        # The package cuts off fractions; where a box leaves the picture, ours is clipped and theirs is not.
        assert np.abs(ours.landmarks[partner] - marks).max() <= 1.01
        inside = (boxes > 0).all(axis=1) & (boxes < SIZE).all(axis=1)
    assert iou_matrix(boxes[inside], ours.xyxy).max(axis=1).min() > 0.9


def test_our_preprocessing_is_the_training_sides(model: ImportedModel) -> None:
    assert SPEC.preprocess is not None
    data = (model.samples / "sample2.jpg").read_bytes()
    pixels, tensor = training_side(data)
    ours = prepare(decode(data), SPEC.preprocess)
    assert np.array_equal(ours.pixels, pixels) and np.abs(ours.tensor - tensor).max() < 1e-4


def test_every_face_that_was_counted_is_found(engine: Any, model: ImportedModel) -> None:
    """36 faces in 17 pictures were counted by eye before this model ran on them."""
    with (model.samples / "labels.csv").open(encoding="utf-8") as source:
        counts = {row["file"]: int(row["label"]) for row in csv.DictReader(source)}
    found: dict[str, int] = {}
    for name in counts:
        tensor = training_side((model.samples / name).read_bytes())[1][None]
        raw = {key: value[0] for key, value in engine.run({"input": tensor}).items()}
        found[name] = len(TASK.postprocess(raw, PLANE, SPEC, {"score_threshold": 0.5}))
    assert sum(min(found[n], counts[n]) for n in counts) >= 0.95 * sum(counts.values())
    assert sum(max(0, found[n] - counts[n]) for n in counts) <= 2


def test_constants_come_from_the_source() -> None:
    assert constants_of_source(CACHE) == {"nms_iou": 0.4}


def test_the_networks_own_outputs_are_still_in_the_graph(package: Fetched) -> None:
    names = {name for node in with_decoding(weights_of(package)).graph.node for name in node.output}
    assert {"loc", "conf", "points", "boxes", "scores", "landmarks"} <= names


def test_faces_check_themselves() -> None:
    with pytest.raises(ValueError, match="landmarks"):
        Faces(np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
