"""A published version as a stranger reads it, and the corpus it is timed on."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

SIZES = {"640x480": (640, 480), "12mp": (4000, 3000)}
JPEG_QUALITY = 85


@dataclass(frozen=True, slots=True)
class Workload:
    """What the bare loops and peers need to know of a model: `spec.json` of the published version."""

    name: str
    task: str
    version_dir: Path
    preprocess: dict[str, Any]
    options: dict[str, Any]
    input_name: str
    precision: str

    @classmethod
    def read(cls, version_dir: Path) -> Workload:
        """From `model_repository/<model>/<version>/spec.json`."""
        document = json.loads((version_dir / "spec.json").read_bytes())
        spec = document["spec"]
        return cls(
            spec["name"], spec["task"], version_dir, spec["preprocess"], spec["options"],
            document["signature"]["inputs"][0]["name"], document["precision"],
        )  # fmt: skip

    @property
    def onnx(self) -> Path:
        """The FP32 graph."""
        return self.version_dir / "model.onnx"

    @property
    def openvino(self) -> Path:
        """The OpenVINO IR."""
        return self.version_dir / "engine.openvino.xml"

    def normalise(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """RGB uint8 [h, w, 3] -> float32 [3, h, w] as the spec says."""
        low, high = {"unit": (0.0, 1.0), "byte": (0.0, 255.0), "signed": (-1.0, 1.0)}[self.preprocess["range"]]
        x = pixels.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)
        if self.preprocess["mean"]:
            x = (x - np.float32(self.preprocess["mean"])) / np.float32(self.preprocess["std"])
        return np.ascontiguousarray(x.transpose(2, 0, 1))


def make_corpus(photos: list[Path], folder: Path, size: str, count: int = 16) -> list[Path]:
    """JPEG files of one size from real photos: cropped differently each, so that no two have the same bytes."""
    width, height = SIZES[size]
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    rng = np.random.default_rng(7)
    for i in range(count):
        target = folder / f"{size}-{i:02d}.jpg"
        if not target.exists():
            buffer = io.BytesIO()
            fitted(photos[i % len(photos)], (width, height), rng).save(buffer, "JPEG", quality=JPEG_QUALITY)
            target.write_bytes(buffer.getvalue())
        made.append(target)
    return made


def fitted(photo: Path, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A photo as RGB of this size (width, height), cut out at a random place of 85 to 100 % of it."""
    with Image.open(photo) as opened:
        picture = _crop(opened.convert("RGB"), size[0] / size[1], rng)
    return picture.resize(size, Image.Resampling.BICUBIC)


def _crop(photo: Image.Image, ratio: float, rng: np.random.Generator) -> Image.Image:
    share = rng.uniform(0.85, 1.0)
    width = min(photo.width, photo.height * ratio) * share
    height = width / ratio
    left, top = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
    return photo.crop((int(left), int(top), int(left + width), int(top + height)))
