"""Scores of maps: metres on the pitch against the exact map, how often there is one, and how often a told map is wrong.

`corner_error` is the usual figure for two pictures of a plane: how far the first picture's corners land from where the
true matrix puts them, in pixels (the graf pair of Mikolajczyk and Schmid 2005 has such a matrix).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.pitch.model import PITCH, Matrix, Pitch, Points, metres_of

WRONG_M = 2.0  # a told map that is off by more, on average over the visible pitch, is a wrong map


@dataclass(frozen=True, slots=True)
class MapScores:
    """Of `frames`: known, the share with a map; wrong, the share with a map that is off by more than `WRONG_M`; and
    of the known ones mean error over the visible pitch in metres: median, 95th percentile, worst."""

    frames: int
    known: float
    wrong: float
    median_m: float
    p95_m: float
    worst_m: float


def score_maps(
    found: Sequence[Matrix | None], truth: Sequence[Matrix | None], size: tuple[int, int], pitch: Pitch = PITCH
) -> MapScores:
    """Maps pixels -> metres of pictures of one size. truth None: there is no pitch in that picture, every map is
    wrong."""
    if len(found) != len(truth):
        raise ValueError(f"score_maps: expected {len(truth)} maps, got {len(found)}")
    errors = [
        np.inf if true is None else field_error(one, true, size, pitch)
        for one, true in zip(found, truth, strict=True)
        if one is not None
    ]
    count = max(1, len(truth))
    figures = np.array(errors) if errors else np.array([np.nan])
    return MapScores(
        len(truth), len(errors) / count, sum(e > WRONG_M for e in errors) / count,
        float(np.percentile(figures, 50, method="higher")), float(np.percentile(figures, 95, method="higher")),
        float(figures.max()), )  # fmt: skip


def field_error(found: Matrix, truth: Matrix, size: tuple[int, int], pitch: Pitch = PITCH) -> float:
    """Mean distance in metres between two maps over the pitch as the true map sees it; inf where there is none of
    it."""
    grid = _grid(size)
    true, told = metres_of(truth, grid), metres_of(found, grid)
    inside = ((true >= 0) & (true <= [pitch.length, pitch.width])).all(axis=1)
    off = np.hypot(*(told - true)[inside].T)
    return float(np.where(np.isfinite(off), off, 1e3).mean()) if inside.any() else float("inf")


def _grid(size: tuple[int, int]) -> Points:
    width, height = size
    return np.stack(np.meshgrid(np.linspace(0, width - 1, 13), np.linspace(0, height - 1, 9)), axis=-1).reshape(-1, 2)


def corner_error(found: Matrix, truth: Matrix, size: tuple[int, int]) -> float:
    """Mean distance in pixels between the first picture's corners under both homographies."""
    width, height = size
    corners = np.array([[0, 0, 1], [width - 1, 0, 1], [width - 1, height - 1, 1], [0, height - 1, 1]], np.float64)
    one, other = (corners @ matrix.T for matrix in (found, truth))
    return float(np.hypot(*(one[:, :2] / one[:, 2:] - other[:, :2] / other[:, 2:]).T).mean())
