"""dlib's 128-d face embedding as face-api carries it (8-bit weights with a scale and an offset a tensor), ported.

The port is proven against face-api itself (tests/data/golden, made by models/golden/face_embedder.py). The samples are
face chips: landmarks of the package's photos stand in models/samples/face_landmarks.csv, found once by RetinaFace.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.importers.manifest import read_manifest
from models.importers.package import Fetched, Progress, fetch
from models.importers.recipe import ImportedModel, Recipe, run
from models.importers.tfjs_weights import Weights, read_weights
from serving.config import load_settings
from serving.errors import ImportFailed

PACKAGE, PHOTOS = "@vladmandic/face-api", "face-recognition"
_WEIGHTS = "model/face_recognition_model"
_SOURCE = "src/faceRecognitionNet/FaceRecognitionNet.ts"
_HERE = Path(__file__).resolve()
LANDMARKS = _HERE.parents[1] / "samples" / "face_landmarks.csv"
_CODE = (_HERE, _HERE.with_name("tfjs_weights.py"), _HERE.parents[1] / "architectures" / "face_resnet.py", LANDMARKS)
MEAN = (122.782, 117.001, 104.298)
_LFW = 8  # faces of 25x25 pixels, enlarged: samples of poor quality


def bring(cache: Path, progress: Progress) -> ImportedModel:
    """Checkpoint and 37 face chips. Raises as models.importers.recipe.run."""
    return run(Recipe("face_embedder", (PACKAGE, PHOTOS, "scikit-image"), _CODE, _build), cache, progress)


def training_side(data: bytes) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """A chip of 150x150 as face-api feeds it: RGB, mean subtracted, divided by 255. Written without serving/."""
    from PIL import Image

    pixels = np.array(Image.open(io.BytesIO(data)).convert("RGB"), np.uint8)
    tensor = (pixels.astype(np.float32) - np.array(MEAN, np.float32)) / np.float32(255)
    return pixels, np.ascontiguousarray(tensor.transpose(2, 0, 1))


def constants_of_source(cache: Path | None = None) -> dict[str, Any]:
    """The template's name by the network's input side, read from the package's source."""
    home = cache or load_settings().settings.cache_dir
    return {"align": f"dlib_{read_source(fetch(read_manifest()[PACKAGE], home, lambda _: None))[0]}"}


def read_source(fetched: Fetched) -> tuple[int, tuple[float, ...]]:
    """Side of the input and mean colour as the package's TypeScript states them."""
    text = fetched.path(_SOURCE).read_text("utf-8")
    side = re.search(r"toBatchTensor\((\d+), true\)", text)
    mean = re.search(r"meanRgb = \[([\d., ]+)\]", text)
    if side is None or mean is None:
        raise ImportFailed(f"package {PACKAGE}: {_SOURCE} does not say the input's side and mean")
    return int(side[1]), tuple(float(value) for value in mean[1].split(","))


def state_dict_of(weights: Weights) -> dict[str, Any]:
    """All weights under the names of `FaceResNet`, as torch tensors in its layout; scales folded into the filters."""
    import torch

    from models.architectures.face_resnet import BLOCKS

    layers = {"conv32_down": "conv32_down"}
    layers |= {f"blocks.{b}.{c}": f"{b}/{c}" for b, *_ in BLOCKS for c in ("conv1", "conv2")}
    state: dict[str, Any] = {"fc.weight": weights["fc"].T}
    for ours, theirs in layers.items():
        scale, bias = (weights[f"{theirs}/scale/{word}"].astype(np.float64) for word in ("weights", "biases"))
        filters = weights[f"{theirs}/conv/filters"].transpose(3, 2, 0, 1) * scale[:, None, None, None]
        state[f"{ours}.weight"] = filters.astype(np.float32)
        state[f"{ours}.bias"] = (weights[f"{theirs}/conv/bias"] * scale + bias).astype(np.float32)
    return {name: torch.from_numpy(np.array(value, order="C")) for name, value in state.items()}


def _build(packages: Mapping[str, Fetched], out: Path, progress: Progress) -> None:
    import torch

    from models.architectures.face_resnet import face_resnet

    package = packages[PACKAGE]
    if read_source(package) != (150, MEAN):
        raise ImportFailed(f"package {PACKAGE}: expected input 150 and mean {MEAN}, got {read_source(package)}")
    manifest = json.loads(package.path(f"{_WEIGHTS}-weights_manifest.json").read_text("utf-8"))
    state = state_dict_of(read_weights(manifest, package.path(f"{_WEIGHTS}.bin").read_bytes(), _WEIGHTS))
    face_resnet().load_state_dict(state, strict=True)
    sink = io.BytesIO()
    torch.save(state, sink)
    (out / "checkpoint.pth").write_bytes(sink.getvalue())
    count = _write_samples(packages, out / "samples")
    progress(f"face_embedder: {len(state)} tensors ported, {count} chips")


def landmarks() -> list[tuple[str, npt.NDArray[np.float32]]]:
    """(file, landmarks float32 [5, 2] in source pixels) of every face, from left to right in each file."""
    with LANDMARKS.open(encoding="utf-8", newline="") as source:
        rows = list(csv.reader(source))[1:]
    return [(row[0], np.array(row[1:], np.float32).reshape(5, 2)) for row in rows]


def photo(packages: Mapping[str, Fetched], name: str) -> Path:
    """A photo by its file's name, whichever package it is in."""
    inside = {PACKAGE: f"demo/{name}", PHOTOS: f"tests/test_images/{name}", "scikit-image": name}
    return next(packages[p].path(path) for p, path in inside.items() if path in packages[p].package.files)


def _write_samples(packages: Mapping[str, Fetched], folder: Path) -> int:
    """Chips of every face with landmarks, as PNG, and a few enlarged LFW faces."""
    from PIL import Image

    from serving.preprocess.chips import TEMPLATES, chip

    folder.mkdir()
    seen: dict[str, int] = {}
    for name, points in landmarks():
        pixels = np.array(Image.open(photo(packages, name)).convert("RGB"), np.uint8)
        seen[name] = seen.get(name, -1) + 1
        face = chip(pixels, points, TEMPLATES["dlib_150"])
        Image.fromarray(face).save(folder / f"{Path(name).stem}_{seen[name]}.png")
    faces = np.load(packages["scikit-image"].path("lfw_subset.npy"))[:_LFW]
    for number, face in enumerate(faces):
        grey = np.rint(face * (255 if face.max() <= 1 else 1)).astype(np.uint8)
        large = Image.fromarray(grey).resize((150, 150), Image.Resampling.BICUBIC)
        large.convert("RGB").save(folder / f"lfw_{number}.png")
    return sum(1 for _ in folder.iterdir())
