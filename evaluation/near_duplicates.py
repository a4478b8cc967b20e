"""Finding near duplicates: seeded copies of the user's own pictures, how many are found, and from which cosine on.

The pictures are taken to be different ones; of each, copies are made as the world makes them: resized, saved again as
a bad JPEG, cropped, mirrored, and all of it together. Every other picture chooses the threshold: the highest cosine
that loses none of the copies found where at most the wanted share of pairs of different pictures would pass. The
others, with copies that chose nothing, prove it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from evaluation.family import Ask, Item
from evaluation.labelled import PICTURES
from serving.errors import SpecInvalid
from serving.types import Array, Embedding, PixelArray

Rng = np.random.Generator
_CROP, _QUALITY, _SCALE = (0.05, 0.15), (25, 50), (0.4, 0.7)  # lost at each edge, JPEG quality, size


def _resized(rgb: PixelArray, rng: Rng) -> PixelArray:
    scale = rng.uniform(*_SCALE)
    return np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def _jpeg(rgb: PixelArray, rng: Rng) -> PixelArray:
    encoded = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(*_QUALITY))])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)


def _cropped(rgb: PixelArray, rng: Rng) -> PixelArray:
    height, width = rgb.shape[:2]
    top, bottom = (int(height * rng.uniform(*_CROP)) for _ in range(2))
    left, right = (int(width * rng.uniform(*_CROP)) for _ in range(2))
    return rgb[top : height - bottom, left : width - right]


def _mirrored(rgb: PixelArray, rng: Rng) -> PixelArray:
    return np.ascontiguousarray(rgb[:, ::-1])


KINDS: Mapping[str, Sequence[Callable[[PixelArray, Rng], PixelArray]]] = {
    "resize": (_resized,),
    "jpeg": (_jpeg,),
    "crop": (_cropped,),
    "mirror": (_mirrored,),
    "all": (_cropped, _mirrored, _resized, _jpeg),
}


def read_pictures(folder: Path) -> list[Path]:
    """Every picture in a folder and the folders in it, by name. SpecInvalid where there are fewer than four."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    if len(found) < 4:
        raise SpecInvalid(f"{folder}: near duplicates need at least 4 different pictures, found {len(found)}")
    return found


def write_copies(pictures: Sequence[Path], folder: Path, seed: int = 11) -> dict[str, list[Item]]:
    """A copy of each picture by kind, as PNG files; the same ones for the same pictures and seed.

    Raises SpecInvalid for a file that is no picture."""
    made: dict[str, list[Item]] = {kind: [] for kind in KINDS}
    rng = np.random.default_rng(seed)
    for place, path in enumerate(pictures):
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if pixels is None:
            raise SpecInvalid(f"{path}: cannot be read as a picture")
        for kind, steps in KINDS.items():
            copy = np.asarray(pixels, np.uint8)
            for step in steps:
                copy = step(copy, rng)
            target = folder / f"{place:05d}_{kind}.png"
            cv2.imwrite(str(target), copy)
            made[kind].append(Item(target.name, target, place))
    return made


def choose(pictures: Sequence[Path], ask: Ask, far: float, folder: Path, seed: int = 11) -> dict[str, Any]:
    """The threshold, and what it gives on the pictures that chose it and on the held-out ones.

    ask: an embedding model. far: share of pairs of different pictures that may be taken for copies. folder: for the
    copies. Raises SpecInvalid where `far` needs more pictures.
    """
    copies = write_copies(pictures, folder, seed)
    originals = _vectors([Item(path.name, path, place) for place, path in enumerate(pictures)], ask)
    by_kind = {kind: _vectors(items, ask) for kind, items in copies.items()}
    halves = {"chosen_on": slice(0, None, 2), "held_out": slice(1, None, 2)}
    strange = _different(originals[halves["chosen_on"]])
    if len(strange) < (needed := math.ceil(1 / far)):
        raise SpecInvalid(
            f"far {far:g}: needs {needed} pairs of different pictures, half of the folder has {len(strange)}",
            hint="give more pictures, or ask for a higher rate",
        )
    strange = np.sort(strange)[::-1]
    bound = float(np.nextafter(strange[int(far * len(strange))], np.float32(2)))
    threshold = _highest(bound, originals[halves["chosen_on"]], [v[halves["chosen_on"]] for v in by_kind.values()])
    parts = {
        name: near_duplicate_scores(originals[half], {k: v[half] for k, v in by_kind.items()}, threshold)
        for name, half in halves.items()
    }
    return {"threshold": threshold, "wanted_far": far, "pictures": len(pictures), **parts}


def _highest(bound: float, originals: Array, copies: Sequence[Array]) -> float:
    """The highest threshold, at four digits, that still finds every copy which is found at `bound`."""
    own = np.concatenate([(vectors * originals).sum(axis=1) for vectors in copies])
    found = own[own >= bound]
    lowest = math.floor(float(found.min()) * 1e4) / 1e4 if len(found) else 0.0
    return min(1.0, max(lowest, math.ceil(bound * 1e4) / 1e4))


def near_duplicate_scores(originals: Array, copies: Mapping[str, Array], threshold: float) -> dict[str, float]:
    """originals, and each kind of copies: float [n, d], unit vectors, row by row of the same pictures.

    Every copy asks for every original: recall, the share of copies whose own original reaches the threshold, over all
    and by kind; precision, the share of own originals among all that reach it; false_accepts, the share of pairs of
    different originals that reach it; top1, the share of copies that are nearest to their own original.
    """
    own = np.eye(len(originals), dtype=bool)
    tables = {kind: vectors @ originals.T for kind, vectors in copies.items()}
    found = np.stack([table >= threshold for table in tables.values()])
    right = int(found[:, own].sum())
    return {
        "recall": right / (len(tables) * len(originals)),
        "precision": right / max(1, int(found.sum())),
        "false_accepts": float((_different(originals) >= threshold).mean()),
        "top1": float(np.mean([(t.argmax(axis=1) == np.arange(len(t))).mean() for t in tables.values()])),
        **{f"recall_{kind}": float((table[own] >= threshold).mean()) for kind, table in tables.items()},
    }


def _different(vectors: Array) -> Array:
    """Cosines of all pairs."""
    first, second = np.triu_indices(len(vectors), 1)
    return np.asarray((vectors @ vectors.T)[first, second])


def _vectors(items: Sequence[Item], ask: Ask) -> Array:
    rows = [answer.vector for (answer,) in ask(items, ({},)) if isinstance(answer, Embedding)]
    vectors = np.stack(rows)
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), np.float32)
