"""Near duplicates: samples of a gallery whose cosine reaches a threshold, as groups that hang together.

Every pair is compared, a block of rows at a time, so memory stays bounded; n samples of d numbers cost n x n x d / 2
multiply-adds (10 000 of 1280: a few seconds on a core). Two samples are in one group where a chain of such pairs joins
them (single linkage), which a group's `least` shows: the lowest cosine between any two of its samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from serving.errors import ParameterInvalid
from serving.gallery.view import View
from serving.types import FloatArray, IntArray

_BLOCK = 512
MOST_PAIRS = 1_000_000
_MOST_IN_GROUP = 4096  # of a larger group the lowest cosine is measured on its first so many samples


@dataclass(frozen=True, slots=True)
class Group:
    """Samples that are copies of each other: (subject, sample number), in the order of their enrolment.

    best, least: the highest and the lowest cosine between two of them.
    """

    members: tuple[tuple[str, int], ...]
    best: float
    least: float


def near_duplicates(view: View, threshold: float, progress: Callable[[int, int], None] | None = None) -> list[Group]:
    """Groups of two or more, largest first. progress: rows compared, of how many.

    Raises ParameterInvalid for a threshold outside 0..1, or one so low that more than MOST_PAIRS pairs reach it.
    """
    if not 0 < threshold <= 1:
        raise ParameterInvalid(f"threshold: expected a cosine over 0 up to 1, got {threshold:g}")
    vectors, _ = view.vectors()
    first, second, cosine = _pairs(vectors, threshold, progress)
    root = _joined(len(vectors), first, second)
    rows = np.flatnonzero(view.alive)
    best = np.full(len(vectors), -1.0, np.float32)
    np.maximum.at(best, root[first], cosine)
    order = np.argsort(root, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(root[order])) + 1) if len(order) else []
    found = [_group(view, rows, vectors, part, float(best[root[part[0]]])) for part in parts if len(part) > 1]
    return sorted(found, key=lambda group: (-len(group.members), group.members[0][1]))


def _pairs(
    vectors: FloatArray, threshold: float, progress: Callable[[int, int], None] | None
) -> tuple[IntArray, IntArray, FloatArray]:
    """Rows of each pair (first < second) at or above the threshold, and their cosine."""
    none = np.zeros(0, np.int64)
    found: list[tuple[IntArray, IntArray, FloatArray]] = [(none, none, np.zeros(0, np.float32))]
    count = 0
    for start in range(0, len(vectors), _BLOCK):
        table = vectors[start : start + _BLOCK] @ vectors[start:].T
        # A picture beside itself has 0.9999999 or 1.0000001: rounding must not hide an exact copy at threshold 1.
        near, far = np.nonzero(np.triu(table, 1) >= np.float32(threshold) - np.float32(1e-6))
        count += len(near)
        if count > MOST_PAIRS:
            raise ParameterInvalid(
                f"threshold {threshold:g}: more than {MOST_PAIRS} pairs reach it", hint="ask for a higher one"
            )
        found.append((near + start, far + start, np.minimum(table[near, far], np.float32(1))))
        if progress is not None:
            progress(min(start + _BLOCK, len(vectors)), len(vectors))
    first, second, cosine = (np.concatenate(part) for part in zip(*found, strict=True))
    return first, second, cosine


def _joined(count: int, first: IntArray, second: IntArray) -> IntArray:
    """Of each row the lowest row that a chain of pairs joins it to (union-find, paths halved)."""
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for one, other in zip(first.tolist(), second.tolist(), strict=True):
        a, b = root(one), root(other)
        if a != b:
            parent[max(a, b)] = min(a, b)
    return np.array([root(row) for row in range(count)], np.int64)


def _group(view: View, rows: IntArray, vectors: FloatArray, part: IntArray, best: float) -> Group:
    members = tuple((view.subjects[int(view.owner[row])], int(view.sample[row])) for row in rows[part].tolist())
    inside = vectors[part[:_MOST_IN_GROUP]]
    lowest = min(float((inside[at : at + _BLOCK] @ inside.T).min()) for at in range(0, len(inside), _BLOCK))
    return Group(members, best, lowest)
