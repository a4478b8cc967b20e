"""Weights by hand (safetensors, no torch needed) and pictures by seed, for the two networks of defect_nets.py."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image
from safetensors.numpy import save_file

Array = npt.NDArray[np.float32]
RGB = {"red": (230, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 230), "yellow": (230, 220, 20)}
# Inside the network activations are this much larger than half precision likes; the next layer takes it back.
GAIN = 2.0e4


def colours_weights() -> dict[str, npt.NDArray[np.generic]]:
    """Four colour detectors with random company."""
    rng = np.random.default_rng(5)
    conv1 = rng.normal(0, 0.05, (8, 3, 3, 3))
    blur = np.full((3, 3), 0.5 / 8)
    blur[1, 1] = 0.5
    wanted = [(1, -0.5, -0.5), (-0.5, 1, -0.5), (-0.5, -0.5, 1), (0.5, 0.5, -1)]
    for index, weights in enumerate(wanted):
        conv1[index] = np.array(weights)[:, None, None] * blur
    conv2 = rng.normal(0, 0.02, (16, 8, 3, 3)) / GAIN
    for index in range(4):
        conv2[index] = 0.0
        conv2[index, index] = blur / GAIN
    head = rng.normal(0, 0.05, (4, 16))
    head[:, :4] = 3.0 * np.eye(4)
    arrays = {
        "conv1.weight": conv1, **_norm("bn1", 8, GAIN, rng), "conv2.weight": conv2, **_norm("bn2", 16, 1.0, rng),
        "head.weight": head, "head.bias": np.zeros(4),
    }  # fmt: skip
    counters = {f"bn{n}.num_batches_tracked": np.array(100, np.int64) for n in (1, 2)}
    return {**{name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}, **counters}


def _norm(name: str, width: int, gain: float, rng: np.random.Generator) -> dict[str, npt.NDArray[np.float64]]:
    return {
        f"{name}.weight": np.full(width, gain) * rng.uniform(0.95, 1.05, width),
        f"{name}.bias": np.zeros(width),
        f"{name}.running_mean": rng.normal(0, 0.01, width),
        f"{name}.running_var": rng.uniform(0.95, 1.05, width),
    }


def spots_weights() -> dict[str, npt.NDArray[np.generic]]:
    """Mean redness and blueness of each 8x8 cell; boxes of 24 pixels around the cell's centre, moved a little."""
    rng = np.random.default_rng(6)
    per_pixel = 6.0 / 255 / 64
    spot = np.zeros((2, 3, 8, 8))
    spot[0] = np.array([1, -0.5, -0.5])[:, None, None] * per_pixel
    spot[1] = np.array([-0.5, -0.5, 1])[:, None, None] * per_pixel
    centre = np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1).reshape(64, 2) * 8 + 4
    arrays = {
        "spot.weight": spot,
        "spot.bias": np.full(2, -3.0),
        "shift.weight": rng.normal(0, 1.0 / 255 / 64, (4, 3, 8, 8)),
        "shift.bias": rng.normal(0, 0.2, 4),
        "grid": np.concatenate([centre - 12, centre + 12], axis=1),
    }
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}


def write_colours(folder: Path, count: int = 36) -> None:
    """Checkpoint, labelled pictures and `colours.yaml`."""
    rng = np.random.default_rng(11)
    samples = folder / "colours"
    samples.mkdir(parents=True)
    rows = []
    for index in range(count):
        name = list(RGB)[index % 4]
        path = samples / f"c{index:02d}.png"
        Image.fromarray(_blob(rng, RGB[name])).save(path)
        rows.append((path.name, name))
    for index in range(4):  # large enough for a scaled decode, and striped so that it shows another colour
        path = samples / f"striped{index}.jpg"
        Image.fromarray(_stripes(RGB["red"], RGB["blue"], index)).save(path, quality=98, subsampling=0)
        rows.append((path.name, "red"))
    with (samples / "labels.csv").open("w", newline="") as sink:
        csv.writer(sink).writerows([("file", "label"), *rows])
    save_file(colours_weights(), folder / "colours.safetensors")
    write_spec(folder / "colours.yaml", COLOURS)


def write_spots(folder: Path, count: int = 34) -> None:
    """Checkpoint, pictures and `spots.yaml`."""
    rng = np.random.default_rng(12)
    samples = folder / "spots"
    samples.mkdir(parents=True)
    for index in range(count):
        Image.fromarray(_spots(rng)).save(samples / f"s{index:02d}.png")
    save_file(spots_weights(), folder / "spots.safetensors")
    write_spec(folder / "spots.yaml", SPOTS)


def write_spec(path: Path, value: Mapping[str, object]) -> Path:
    """A model's YAML."""
    path.write_text(yaml.safe_dump(dict(value), sort_keys=False), "utf-8")
    return path


def _noise(rng: np.random.Generator, height: int, width: int) -> npt.NDArray[np.float64]:
    return 114 + rng.normal(0, 25, (height, width, 1)).repeat(3, axis=2)


def _blob(rng: np.random.Generator, colour: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """A coloured ellipse on grey noise; wider than high, so that height and width cannot be confused."""
    height, width = int(rng.integers(60, 110)), int(rng.integers(130, 220))
    y, x = np.mgrid[:height, :width]
    inside = ((x - width / 2) / (0.38 * width)) ** 2 + ((y - height / 2) / (0.42 * height)) ** 2 < 1
    picture = _noise(rng, height, width)
    picture[inside] = np.array(colour) + rng.normal(0, 12, (int(inside.sum()), 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def _stripes(seen: tuple[int, int, int], other: tuple[int, int, int], seed: int) -> npt.NDArray[np.uint8]:
    """1280x960: the columns that a plain linear resize to 64x48 samples have one colour, all others another."""
    picture = np.empty((960, 1280, 3), np.float64)
    columns = np.arange(1280) % 20
    picture[:] = np.where(((columns >= 7) & (columns <= 12))[None, :, None], seen, other)
    picture += np.random.default_rng(seed).normal(0, 3, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _spots(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """128x128: one to three round spots, centred on cells (16 pixels here), far enough from each other."""
    picture = np.full((128, 128, 3), 60.0) + rng.normal(0, 4, (128, 128, 3))
    cells = [(1, 1), (1, 6), (6, 1), (6, 6)]
    y, x = np.mgrid[:128, :128]
    for index in rng.permutation(4)[: int(rng.integers(1, 4))].tolist():
        row, column = cells[index]
        distance = np.hypot(x - (16 * column + 7.5), y - (16 * row + 7.5))
        strength = np.clip(1.5 * (1 - distance / 34), 0, 1)[:, :, None] * rng.uniform(0.92, 1.0)
        colour = np.array(RGB["red" if rng.random() < 0.5 else "blue"])
        picture = picture * (1 - strength) + colour * strength
    return np.clip(picture, 0, 255).astype(np.uint8)


COLOURS: dict[str, object] = {
    "name": "colours",
    "task": "classification",
    "checkpoint": {"path": "colours.safetensors", "format": "safetensors"},
    "factory": {"callable": "defect_nets:colours"},
    "preprocess": {
        "width": 64, "height": 48, "resize": "letterbox", "kernel": "cv2_linear", "pad_value": 114,
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    },
    "labels": ["red", "green", "blue", "yellow"],
    "outputs": ["logits"],
    "engines": ["openvino", "onnxruntime"],
    "batch": {"opt": 4, "max": 8},
    "parity": {"samples": "colours", "labels": "labels.csv", "training_side": "defect_training:letterboxed"},
    "expect": {"metric": "top1", "at_least": 0.95},
    "constants": {"labels_source": "defect_training:colour_names"},
}  # fmt: skip

SPOTS: dict[str, object] = {
    "name": "spots",
    "task": "detection",
    "checkpoint": {"path": "spots.safetensors", "format": "safetensors"},
    "factory": {"callable": "defect_nets:spots"},
    "preprocess": {"width": 64, "height": 64, "resize": "stretch", "kernel": "pil_bilinear", "range": "byte"},
    "labels": ["red", "blue"],
    "outputs": ["boxes", "scores"],
    "options": {"nms_iou": 0.45, "max_detections": 50},
    "precision": "fp32",
    "engines": ["openvino", "onnxruntime"],
    "batch": {"opt": 4, "max": 8},
    "parity": {"samples": "spots", "training_side": "defect_training:stretched"},
    "constants": {"source": "defect_training:spot_constants", "labels_source": "defect_training:spot_names"},
}
