"""Scenes of digits with exact boxes: scikit-learn's handwritten digits, enlarged and put on a noisy grey plane.

Training and held-out scenes use different handwritings (the split of models/train/digits.py), so that a score on the
held-out ones is about digits that were never seen.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

SIDE, FEWEST, MOST = 96, 1, 4
SIZES = (16, 20, 24, 28, 32)


@dataclass(frozen=True, slots=True)
class Scenes:
    """images: uint8 [n, SIDE, SIDE]; boxes: for each the xyxy of its digits, float32 [k, 4]; digits: int64 [k]."""

    images: npt.NDArray[np.uint8]
    boxes: tuple[npt.NDArray[np.float32], ...]
    digits: tuple[npt.NDArray[np.int64], ...]

    def __len__(self) -> int:
        return len(self.images)


def scenes(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], count: int, seed: int) -> Scenes:
    """`count` scenes of 1 to 4 digits that do not overlap, by the seed alone."""
    rng = np.random.default_rng(seed)
    made = [_scene(images, labels, rng) for _ in range(count)]
    return Scenes(np.stack([m[0] for m in made]), tuple(m[1] for m in made), tuple(m[2] for m in made))


def _scene(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    import cv2

    plane = rng.normal(40, 8, (SIDE, SIDE)) + rng.uniform(-20, 20)
    taken = np.zeros((SIDE, SIDE), bool)
    boxes, digits = [], []
    for _ in range(int(rng.integers(FEWEST, MOST + 1))):
        chosen, size = int(rng.integers(len(images))), int(rng.choice(SIZES))
        x, y = rng.integers(0, SIDE - size, 2).tolist()
        place = np.s_[y : y + size, x : x + size]
        if taken[place].any():
            continue
        digit = cv2.resize(images[chosen][::4, ::4].astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
        plane[place] = np.maximum(plane[place], digit * rng.uniform(0.6, 1.0))
        taken[place] = True
        rows, columns = np.flatnonzero((digit > 64).any(1)), np.flatnonzero((digit > 64).any(0))
        boxes.append((x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1))
        digits.append(int(labels[chosen]))
    picture = np.clip(np.rint(plane), 0, 255).astype(np.uint8)
    return picture, np.array(boxes, np.float32).reshape(-1, 4), np.array(digits, np.int64)


def write_scenes(made: Scenes, folder: Path) -> None:
    """PNG files, `annotations.json` in COCO's layout, and `labels.csv` with the number of digits in each."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    names = [f"scene_{number:03d}.png" for number in range(len(made))]
    for name, image in zip(names, made.images, strict=True):
        Image.fromarray(image).save(folder / name)
    found = [
        (image, int(digit), [x1, y1, x2 - x1, y2 - y1])
        for image, (boxes, digits) in enumerate(zip(made.boxes, made.digits, strict=True))
        for (x1, y1, x2, y2), digit in zip(boxes.tolist(), digits, strict=True)
    ]
    rows = [
        {"id": n, "image_id": i, "category_id": digit, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for n, (i, digit, box) in enumerate(found)
    ]
    tree = {
        "images": [{"id": i, "file_name": name, "width": SIDE, "height": SIDE} for i, name in enumerate(names)],
        "annotations": rows,
        "categories": [{"id": digit, "name": str(digit)} for digit in range(10)],
    }
    (folder / "annotations.json").write_text(json.dumps(tree), "utf-8")
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as sink:
        counts = zip(names, map(len, made.digits), strict=True)
        csv.writer(sink, lineterminator="\n").writerows([("file", "label"), *counts])
