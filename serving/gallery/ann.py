"""Search beyond EXACT_UP_TO samples: an HNSW graph by usearch (Malkov and Yashunin, arXiv:1603.09320).

The graph is built when a snapshot is written, and its recall@1 against exact search is measured then, on samples moved
a little, and kept beside it. A graph that reaches less than LEAST_RECALL even with the widest search is not used:
search stays exact, slower and right.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from serving.gallery.view import Nearest
from serving.types import FloatArray, IntArray

EXACT_UP_TO = 50_000
LEAST_RECALL = 0.98
_PROBES, _NOISE = 256, 0.35  # the noise vector's length beside the sample's: another picture of the same subject
_SEARCH_WIDTHS = (64, 128, 256, 512)
_INDEX, _ABOUT = "index.usearch", "index.json"


def write_index(folder: Path, vectors: FloatArray, exact_up_to: int = EXACT_UP_TO) -> dict[str, Any] | None:
    """Build, measure and save; None (and nothing written) for as few vectors as are searched exactly."""
    if len(vectors) <= exact_up_to:
        return None
    from usearch.index import Index

    index: Any = Index(ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=24, expansion_add=192)
    index.add(np.arange(len(vectors), dtype=np.uint64), vectors)
    probes = _probes(vectors)
    truth = np.concatenate([(vectors @ part.T).argmax(axis=0) for part in np.array_split(probes, 8)])
    about: dict[str, Any] = {}
    for width in _SEARCH_WIDTHS:
        index.expansion_search = width
        found = np.array(index.search(probes, 10).keys[:, 0], np.int64)
        about = {"recall_at_1": round(float((found == truth).mean()), 4), "expansion": width, "probes": len(probes)}
        if about["recall_at_1"] >= LEAST_RECALL:
            break
    about["used"] = about["recall_at_1"] >= LEAST_RECALL
    if about["used"]:
        index.save(str(folder / _INDEX))
    (folder / _ABOUT).write_text(json.dumps(about), "utf-8")
    return about


def about_index(folder: Path) -> dict[str, Any] | None:
    """What was measured when the graph was built; None where there is none."""
    path = folder / _ABOUT
    return json.loads(path.read_bytes()) if path.is_file() else None


def open_index(folder: Path, rows: int) -> Nearest | None:
    """The graph, mapped; None where the snapshot is searched exactly. ValueError where it has other rows."""
    about = about_index(folder)
    if about is None or not about["used"]:
        return None
    from usearch.index import Index

    index: Any = Index.restore(str(folder / _INDEX), view=True)
    if index is None or len(index) != rows:
        raise ValueError(f"{_INDEX}: expected {rows} vectors")
    index.expansion_search = about["expansion"]

    def nearest(vector: FloatArray, count: int) -> tuple[FloatArray, IntArray]:
        found = index.search(vector, count)
        return 1.0 - np.asarray(found.distances, np.float32), np.asarray(found.keys, np.int64)

    return nearest


def _probes(vectors: FloatArray) -> FloatArray:
    rng = np.random.default_rng(5)
    chosen = vectors[rng.choice(len(vectors), min(_PROBES, len(vectors)), replace=False)]
    noise = rng.standard_normal(chosen.shape).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    moved = chosen + np.float32(_NOISE) * noise
    probes: FloatArray = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
    return probes
