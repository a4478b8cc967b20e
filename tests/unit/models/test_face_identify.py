"""face_identify as it is shipped, on real photos: its own YAML, detector and embedder, one photo of each enrolled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.importers import ImportedModel
from models.importers.face_embedder import PHOTOS
from models.importers.manifest import read_manifest
from models.importers.package import Fetched, fetch
from serving.bundle import ModelBundle
from serving.engines.onnxruntime import load
from serving.errors_gallery import NothingToEnrol, SeveralToEnrol
from serving.gallery import Facts, Galleries, GalleryWriter
from serving.gallery.asking import found_in, sample_of, to_enrol
from serving.pipelines import PipelineModel
from serving.served_model import ServedModel
from serving.spec import ModelSpec
from serving.testing.fake_engine import FunctionEngine
from serving.types import InferRequest, InferResponse, TensorSpec

pytestmark = [pytest.mark.needs("torch"), pytest.mark.needs("npm"), pytest.mark.needs("opencv-doc")]
ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / ".cache" / "lockstep"


def served(name: str, engine: Any, inputs: tuple[TensorSpec, ...]) -> ServedModel:
    spec = ModelSpec.read(ROOT / "models" / f"{name}.yaml")
    labels = spec.label_names(ROOT / "models")
    bundle = ModelBundle(spec, labels, 1, Path("none"), name[:12], "onnxruntime", "f32", 1, inputs, ())
    return ServedModel(bundle, engine)


@pytest.fixture(scope="module")
def detector(imported: Callable[[str], ImportedModel]) -> ServedModel:
    engine = load(imported("face_retina").checkpoint, threads=1)
    return served("face_retina", engine, engine.info.inputs)


@pytest.fixture(scope="module")
def embedder(imported: Callable[[str], ImportedModel]) -> ServedModel:
    import torch

    from models.architectures.face_resnet import face_resnet

    net = face_resnet()
    net.load_state_dict(torch.load(imported("face_embedder").checkpoint, weights_only=True), strict=True)
    net.eval()

    def run(inputs: Any) -> dict[str, Any]:
        with torch.no_grad():
            return {"embedding": net(torch.from_numpy(inputs["x"])).numpy()}

    tensor = TensorSpec("x", "FP32", (3, 150, 150))
    return served("face_embedder", FunctionEngine(run, (tensor,), ()), (tensor,))


@pytest.fixture(scope="module")
def photos(detector: ServedModel) -> Fetched:
    return fetch(read_manifest()[PHOTOS], CACHE, print)


@pytest.fixture
def model(detector: ServedModel, embedder: ServedModel, tmp_path: Path) -> Iterator[PipelineModel]:
    spec = ModelSpec.read(ROOT / "models" / "face_identify.yaml")
    bundle = ModelBundle(spec, ("face",), 1, Path("none"), "chain", "pipeline", "f32", 1, (), ())
    yield PipelineModel(bundle, {"face_retina": detector, "face_embedder": embedder}, Galleries(tmp_path))


def answer(model: PipelineModel, data: bytes, **parameters: Any) -> dict[str, Any]:
    (found,) = model.infer([InferRequest(encoded=data, parameters=parameters)])
    assert isinstance(found, InferResponse), found
    return model.document(found)


def test_people_enrolled_with_one_photo_are_known_on_others_and_strangers_are_not(
    model: PipelineModel, photos: Fetched, imported: Callable[[str], ImportedModel], tmp_path: Path
) -> None:
    def photo(name: str) -> bytes:
        return photos.path(f"tests/test_images/{name}.jpg").read_bytes()

    reader = Galleries(tmp_path).create(Facts("faces", "face_identify"))
    for name in ("obama", "biden"):
        one = to_enrol(found_in(answer(model, photo(name), embeddings=True)))
        with GalleryWriter(reader) as writer:
            writer.enrol(name, [sample_of(one, {})], fingerprint=one.fingerprint, label=name.title())
    assert reader.facts.dimension == 128 and reader.facts.fingerprint == model.plan.chain("look")
    for name in ("obama2", "obama3"):
        (row,) = answer(model, photo(name))["detections"]
        assert row["label"] == "Obama" and row["identity"]["score"] > 0.95 and row["chip"]["good"]
    samples = imported("face_retina").samples
    strangers = [answer(model, (samples / f"sample{n}.jpg").read_bytes())["detections"] for n in (1, 2, 5)]
    rows = [row for found in strangers for row in found]
    assert len(rows) >= 10 and {row["label"] for row in rows} == {"unknown"}
    assert max(row["identity"]["score"] for row in rows) < 0.93
    nobody = answer(model, (samples / "orange.jpg").read_bytes())
    assert nobody["detections"] == [] and "failures" not in nobody and nobody["timings_ms"]["look"] < 1
    with pytest.raises(SeveralToEnrol, match="found 3"):
        to_enrol(found_in(answer(model, (samples / "sample1.jpg").read_bytes(), embeddings=True)))
    with pytest.raises(NothingToEnrol):
        to_enrol(found_in(answer(model, (samples / "orange.jpg").read_bytes(), embeddings=True)))


def test_a_small_or_blurred_face_is_not_named(model: PipelineModel, photos: Fetched) -> None:
    import cv2

    pixels = cv2.imread(str(photos.path("tests/test_images/obama.jpg")))
    small = cv2.resize(pixels, None, fx=0.08, fy=0.08, interpolation=cv2.INTER_AREA)
    canvas = np.zeros((400, 400, 3), np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small[:400, :400]
    blurred = cv2.GaussianBlur(pixels, (0, 0), 14)
    for picture, problem in ((canvas, "small"), (blurred, "blurred")):
        rows = answer(model, cv2.imencode(".png", picture)[1].tobytes(), score_threshold=0.2)["detections"]
        assert rows, problem
        assert problem in rows[0]["chip"]["problems"] and rows[0]["identity"]["reason"].startswith("low_quality")
