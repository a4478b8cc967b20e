"""face_mtcnn against the package's own cascade, run from its own source, and its weights against another copy."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lz4_frame import decompressed
from mtcnn_cascades import NAMES, Theirs, apart, equal, our_cascade, our_nets, ours, spec_of
from PIL import Image

import models.architectures.mtcnn as architecture
import serving.pipelines.cascade as cascade
from models.importers import ImportedModel
from models.importers.face_embedder import PHOTOS, landmarks, photo
from models.importers.face_mtcnn import COPY, PACKAGE
from models.importers.face_yolo import PACKAGE as FACE_API
from models.importers.manifest import read_manifest
from models.importers.package import Fetched, fetch
from serving.pipelines import PipelineModel
from serving.preprocess.pyramid import AreaMeans
from serving.tasks.boxes import iou_matrix
from serving.tasks.face import Faces
from serving.types import FloatArray, ImageSize, IntArray, PixelArray

pytestmark = [pytest.mark.needs("torch"), pytest.mark.needs("npm"), pytest.mark.needs("opencv-doc")]
CACHE = Path(__file__).resolve().parents[3] / ".cache" / "lockstep"
# A group, one face, one of which the picture's side cuts off a part.
FEW = ("sample1.jpg", "astronaut.png")
CUT = "obama_partial_face.jpg"


def rgb(path: Path) -> PixelArray:
    return np.array(Image.open(path).convert("RGB"), np.uint8)


def package(name: str) -> Fetched:
    return fetch(read_manifest()[name], CACHE, print)


@pytest.fixture(scope="module")
def nets(imported: Callable[[str], ImportedModel]) -> dict[str, Any]:
    return our_nets(imported)


@pytest.fixture(scope="module")
def theirs(nets: dict[str, Any]) -> Theirs:
    return Theirs(package(PACKAGE), beyond=False)


@pytest.fixture
def model(nets: dict[str, Any], tmp_path: Path) -> PipelineModel:
    return our_cascade(nets, tmp_path)


@pytest.fixture(scope="module")
def photos(imported: Callable[[str], ImportedModel]) -> Path:
    return imported("face_yolo").samples


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_the_weights_is_in_another_owners_copy(
    name: str, nets: dict[str, Any], imported: Callable[[str], ImportedModel]
) -> None:
    copy = decompressed(package(COPY).path(f"mtcnn/assets/weights/{name[-1]}net.lz4").read_bytes())
    state = {key: value.numpy() for key, value in nets[name].state_dict().items()}
    assert len(state) == {"mtcnn_p": 13, "mtcnn_r": 16, "mtcnn_o": 21}[name]
    assert [key for key, array in state.items() if as_in_tensorflow(array).tobytes() not in copy] == []
    changed = next(iter(state.values())).copy()
    changed.flat[0] = np.nextafter(changed.flat[0], np.float32(9))
    assert as_in_tensorflow(changed).tobytes() not in copy


def as_in_tensorflow(array: FloatArray) -> FloatArray:
    """Filters as [height, width, in, out], dense layers as [in, out]."""
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T)


@pytest.fixture(scope="module")
def few(photos: Path, theirs: Theirs) -> list[tuple[PixelArray, Faces]]:
    """Pictures with the package's own answers."""
    pictures = [*(rgb(photos / name) for name in FEW), rgb(package(PHOTOS).path(f"tests/test_images/{CUT}"))]
    return [(pixels, theirs.faces(pixels)) for pixels in pictures]


def test_the_networks_are_the_packages_own(nets: dict[str, Any]) -> None:
    import torch

    rng = np.random.default_rng(7)
    for name, their, side in zip(NAMES, Theirs(package(PACKAGE), beyond=True).nets, (61, 24, 48), strict=True):
        levels = torch.from_numpy(rng.uniform(0, 255, (5, 3, side, side)).astype(np.float32))
        with torch.no_grad():
            regression, *points, both = their((levels - 127.5) * 0.0078125)
            found = nets[name](levels)
        for mine, wanted in zip(found, (both[:, 1:], regression, *points), strict=True):
            assert mine.shape == wanted.shape and float((mine - wanted).abs().max()) < 1e-5


def test_faces_landmarks_and_scores_are_the_packages_own(model: PipelineModel, theirs: Theirs, photos: Path) -> None:
    """On every sample of face_yolo, and on photos whose faces are cut off by a side."""
    pictures = {p.name: rgb(p) for p in sorted(photos.iterdir()) if p.suffix != ".csv"}
    pictures |= {n: rgb(package(PHOTOS).path(f"tests/test_images/{n}")) for n in
                 ("obama_partial_face.jpg", "obama_partial_face2.jpg", "biden.jpg")}  # fmt: skip
    found = {name: (ours(model, pixels), theirs.faces(pixels)) for name, pixels in pictures.items()}
    assert {name: apart(*both) for name, both in found.items() if not equal(*both)} == {}
    assert len(found) == 38 and sum(len(mine) for mine, _ in found.values()) >= 60
    untouched = Theirs(package(PACKAGE), beyond=True)
    as_it_is = {name: (mine, untouched.faces(pictures[name])) for name, (mine, _) in found.items()}
    other = {name: both for name, both in as_it_is.items() if not equal(*both)}
    assert len(other) <= 1, list(other)
    for mine, wanted in other.values():  # the same faces, of which one comes from another window
        assert len(mine) == len(wanted) and iou_matrix(mine.xyxy, wanted.xyxy).max(axis=1).min() > 0.6


Patch = pytest.MonkeyPatch


def swapped_colours(patch: Patch, nets: dict[str, Any]) -> dict[str, Any]:
    def bgr(name: str) -> Callable[[Any], Any]:
        return lambda x: nets[name](x.flip(1))

    return {name: bgr(name) for name in NAMES}


def rows_for_columns(patch: Patch, nets: dict[str, Any]) -> dict[str, Any]:
    patch.setattr(architecture, "_flat", lambda x: x.permute(0, 2, 3, 1).flatten(1))
    return nets


def regression_transposed(patch: Patch, nets: dict[str, Any]) -> dict[str, Any]:
    def turned(name: str) -> Callable[[Any], Any]:
        def run(x: Any) -> Any:
            probability, regression, *points = nets[name](x)
            return (probability, regression[:, [1, 0, 3, 2]], *points)

        return run

    return {name: turned(name) for name in NAMES}


def landmarks_in_pairs(patch: Patch, nets: dict[str, Any]) -> dict[str, Any]:
    """x, y of each point in turn, where the network gives five x, then five y."""

    def run(x: Any) -> Any:
        probability, regression, points = nets["mtcnn_o"](x)
        return probability, regression, points[:, [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]]

    return {**nets, "mtcnn_o": run}


def filled_with_black(patch: Patch, nets: dict[str, Any]) -> dict[str, Any]:
    """What lies outside the picture is black, where the package cuts it off."""
    crops = AreaMeans.crops

    def filled(means: AreaMeans, edges: IntArray, side: int) -> FloatArray:
        if not len(edges):
            return crops(means, edges, side)
        pad = max(1, -int(edges.min(initial=0)), int((edges[:, 2:] - [means.size.width, means.size.height]).max()))
        pixels = np.rint(means.resized(means.size.width, means.size.height)).astype(np.uint8).transpose(1, 2, 0)
        padded = np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)))
        return crops(AreaMeans(np.ascontiguousarray(padded)), edges + pad, side)

    patch.setattr(AreaMeans, "crops", filled)
    patch.setattr(cascade, "inside", lambda boxes, size: np.trunc(boxes).astype(np.int64) - [1, 1, 0, 0])
    return nets


def a_pixel_off(patch: Patch, nets: dict[str, Any]) -> dict[str, Any]:
    """Boxes counted from 0 where they are counted from 1."""
    right = cascade.inside

    def wrong(boxes: FloatArray, size: ImageSize) -> IntArray:
        return right(boxes + np.float32(1), size)

    patch.setattr(cascade, "inside", wrong)
    return nets


def by_union(boxes: FloatArray, scores: FloatArray, overlap: float) -> IntArray:
    return cascade.nms(boxes, scores, np.zeros(len(boxes), np.int64), overlap, agnostic=True, limit=9999)[0]


MUTANTS = (swapped_colours, rows_for_columns, regression_transposed, landmarks_in_pairs, filled_with_black, a_pixel_off)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_a_defect_is_seen(
    mutant: Callable[[Patch, dict[str, Any]], dict[str, Any]], nets: dict[str, Any],
    few: list[tuple[PixelArray, Faces]], tmp_path: Path, monkeypatch: Patch,
) -> None:  # fmt: skip
    assert all(equal(ours(our_cascade(nets, tmp_path), pixels), wanted) for pixels, wanted in few)
    broken = our_cascade(mutant(monkeypatch, nets), tmp_path)
    assert not all(equal(ours(broken, pixels), wanted) for pixels, wanted in few)


def test_the_last_suppression_is_the_packages_and_not_the_usual_one(theirs: Theirs) -> None:
    rng = np.random.default_rng(3)
    first = rng.uniform(0, 60, (60, 2))
    boxes = np.concatenate([first, first + rng.uniform(10, 70, (60, 2))], axis=1).astype(np.float32)
    scores = rng.permutation(60).astype(np.float32) / 60
    wanted = theirs.parts.nms_numpy(boxes, scores, 0.7, "Min").tolist()
    assert cascade.without_covered(boxes, scores, 0.7).tolist() == wanted
    assert by_union(boxes, scores, 0.7).tolist() != wanted


def test_landmarks_are_where_retinaface_sees_them(model: PipelineModel, photos: Path) -> None:
    """A second opinion of another network: models/samples/face_landmarks.csv, found by face_retina. Two faces of a
    group are not found; of two that lack a half the landmarks lie elsewhere."""
    packages = {name: package(name) for name in (FACE_API, PHOTOS, "scikit-image")}
    seen: dict[str, list[FloatArray]] = {}
    for name, points in landmarks():
        seen.setdefault(name, []).append(points)
    off = []
    for name, faces in seen.items():
        found = ours(model, rgb(photo(packages, name)))
        assert found.landmarks is not None
        for points in faces:
            side = float(np.ptp(points, axis=0).max())
            off.append(min((float(np.abs(m - points).mean()) / side for m in found.landmarks), default=9.0))
    assert len(off) == 29 and sum(part < 0.15 for part in off) >= 25, sorted(off)
    assert float(np.median(off)) < 0.06


def test_faces_that_were_counted_are_found(model: PipelineModel, photos: Path) -> None:
    """36 faces in 17 pictures were counted by eye before any model ran on them."""
    with (photos / "labels.csv").open(encoding="utf-8") as source:
        counts = {row["file"]: int(row["label"]) for row in csv.DictReader(source)}
    found = {name: len(ours(model, rgb(photos / name))) for name in counts}
    assert sum(min(found[n], counts[n]) for n in counts) >= 0.9 * sum(counts.values()), found
    assert sum(max(0, found[n] - counts[n]) for n in counts) <= 4, found


def test_the_yaml_says_the_packages_own_constants(theirs: Theirs) -> None:
    import inspect

    told = inspect.signature(theirs.module.MTCNN.__init__).parameters
    spec = spec_of("face_mtcnn")
    propose, refine, _ = spec.steps
    assert propose.options["smallest"] == told["min_face_size"].default
    assert propose.options["factor"] == told["factor"].default
    last = spec.thresholds["default"]["score_threshold"]
    assert [propose.options["threshold"], refine.options["threshold"], last] == told["thresholds"].default
