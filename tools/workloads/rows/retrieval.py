"""Retrieval: search by picture in a gallery of photos, and the near duplicates among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaluation.near_duplicates import read_pictures, write_copies
from serving.types import PixelArray
from tools.workloads.bench import Bench, read_rgb, scaled
from tools.workloads.row import Row, Shown

PIPELINE, GALLERY, COPIED = "photo_search", "photos", (5, 19, 31)
THRESHOLD = 0.75  # about what `lockstep thresholds photo_embedder` finds on these photos (docs/evaluation.md)


def show(bench: Bench) -> Shown:
    """Photos and three altered copies enrolled; copies found by search, and as duplicates."""
    photos = read_pictures(bench.samples("photo_embedder"))
    folder = bench.folder / "copies"
    folder.mkdir(exist_ok=True)
    copies = [item.path for item in write_copies([photos[at] for at in COPIED], folder)["all"]]
    _enrolled(bench, photos)
    pictures, answer = [], []
    for place, copy in zip(COPIED, copies, strict=True):
        (row,) = bench.post(f"/v1/galleries/{GALLERY}/search", copy, top=3)["results"]
        nearest, name = row["nearest"], photos[place].name
        strip = _strip([copy, *(photos[0].with_name(near["label"]) for near in nearest)])
        pictures.append((f"asked: a copy of {name}; nearest three", strip))
        answer += [{"asked": f"copy of {name}", "nearest": n["label"], "cosine": n["score"]} for n in nearest[:2]]
    for copy in copies:
        bench.post(f"/v1/galleries/{GALLERY}/subjects/{copy.name}", copy, label=copy.name)
    groups = bench.call("GET", f"/v1/galleries/{GALLERY}/duplicates", params={"threshold": THRESHOLD})["groups"]
    answer += [{"asked": "duplicates", "nearest": " = ".join(m["label"] for m in g["samples"]), "cosine": g["least"]}
               for g in groups]  # fmt: skip
    _, cost = bench.measured(PIPELINE, copies[0])
    figures = {
        "threshold": f"cosine {THRESHOLD}",
        "groups of near duplicates": f"{len(groups)} among {len(photos) + len(copies)}",
        **cost,
    }
    return Shown(pictures, figures, answer)


def _enrolled(bench: Bench, photos: list[Path]) -> None:
    """A new gallery, each photo a subject of its own."""
    if any(row["name"] == GALLERY for row in bench.call("GET", "/v1/galleries")["galleries"]):
        bench.call("DELETE", f"/v1/galleries/{GALLERY}")
    bench.call("POST", "/v1/galleries", json={"name": GALLERY, "pipeline": PIPELINE})
    for photo in photos:
        bench.post(f"/v1/galleries/{GALLERY}/subjects/{photo.name}", photo, label=photo.name)


def _strip(files: list[Path]) -> PixelArray:
    """Pictures side by side, each in a square of 160 pixels."""
    cells = np.full((160, 164 * len(files), 3), 255, np.uint8)
    for place, file in enumerate(files):
        small = scaled(read_rgb(file), 160)
        cells[: small.shape[0], place * 164 : place * 164 + small.shape[1]] = small
    return cells


ROW = Row(
    80, "Retrieval and near duplicates",
    "Photos as 1280 numbers in a gallery: search by picture, and which of them are copies of each other.",
    ("photo_embedder", "photo_search"), show,
)  # fmt: skip
