"""face_identify with face_mtcnn in place of face_retina: one name in the YAML, the rest as it is shipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mtcnn_cascades import our_cascade, our_nets, spec_of

from models.importers import ImportedModel
from models.importers.face_embedder import PHOTOS
from models.importers.manifest import read_manifest
from models.importers.package import Fetched, fetch
from serving.bundle import ModelBundle
from serving.gallery import Facts, Galleries, GalleryWriter
from serving.gallery.asking import found_in, sample_of, to_enrol
from serving.pipelines import PipelineModel
from serving.served_model import ServedModel
from serving.spec import ModelSpec
from serving.testing.fake_engine import FunctionEngine
from serving.types import InferRequest, InferResponse, TensorSpec

pytestmark = [pytest.mark.needs("torch"), pytest.mark.needs("npm"), pytest.mark.needs("opencv-doc")]
CACHE = Path(__file__).resolve().parents[3] / ".cache" / "lockstep"


def embedder(checkpoint: Path) -> ServedModel:
    import torch

    from models.architectures.face_resnet import face_resnet

    net = face_resnet().eval()
    net.load_state_dict(torch.load(checkpoint, weights_only=True), strict=True)

    def run(inputs: Any) -> dict[str, Any]:
        with torch.no_grad():
            return {"embedding": net(torch.from_numpy(inputs["x"])).numpy()}

    tensor = TensorSpec("x", "FP32", (3, 150, 150))
    spec = spec_of("face_embedder")
    bundle = ModelBundle(spec, (), 1, Path("none"), "embedder", "onnxruntime", "f32", 1, (tensor,), ())
    return ServedModel(bundle, FunctionEngine(run, (tensor,), ()))


@pytest.fixture(scope="module")
def photos(imported: Callable[[str], ImportedModel]) -> Fetched:
    imported("mtcnn_o")  # an unreachable package is a skip with its reason
    return fetch(read_manifest()[PHOTOS], CACHE, print)


def test_people_enrolled_with_one_photo_are_known_on_others(
    imported: Callable[[str], ImportedModel], photos: Fetched, tmp_path: Path
) -> None:
    document = spec_of("face_identify").model_dump(mode="json")
    document["steps"][0] |= {"model": "face_mtcnn", "parameters": {"score_threshold": 0.95}}
    spec = ModelSpec.model_validate(document)
    parts: Any = {
        "face_mtcnn": our_cascade(our_nets(imported), tmp_path),
        "face_embedder": embedder(imported("face_embedder").checkpoint),
    }
    bundle = ModelBundle(spec, ("face",), 1, Path("none"), "chain", "pipeline", "f32", 1, (), ())
    galleries = Galleries(tmp_path / "galleries")
    model = PipelineModel(bundle, parts, galleries)

    def answer(name: str, **parameters: Any) -> dict[str, Any]:
        data = photos.path(f"tests/test_images/{name}.jpg").read_bytes()
        (found,) = model.infer([InferRequest(encoded=data, parameters=parameters)])
        assert isinstance(found, InferResponse), found
        return model.document(found)

    reader = galleries.create(Facts("faces", "face_identify"))
    for name in ("obama", "biden"):
        one = to_enrol(found_in(answer(name, embeddings=True)))
        with GalleryWriter(reader) as writer:
            writer.enrol(name, [sample_of(one, {})], fingerprint=one.fingerprint, label=name.title())
    for name in ("obama2", "obama3"):
        (row,) = answer(name)["detections"]
        assert row["label"] == "Obama" and row["identity"]["score"] > 0.94 and len(row["landmarks"]) == 5
