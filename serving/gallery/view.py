"""A gallery as it stands at one moment: never changed, so that a search never sees half of a change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from serving.types import FloatArray, IntArray


class Match(NamedTuple):
    """A subject and the cosine of its nearest sample."""

    subject: str
    score: float
    sample: int


class Nearest(Protocol):
    """An approximate index over the rows of `base`: cosines and row numbers, best first."""

    def __call__(self, vector: FloatArray, count: int) -> tuple[FloatArray, IntArray]: ...


@dataclass(frozen=True, slots=True)
class View:
    """Samples as two blocks: `base` (mapped from the snapshot) and `tail` (what was added since).

    base float32 [n, d], tail float32 [m, d]: unit vectors. owner int32 [n + m]: place in `subjects`. sample int64
    [n + m]: ids. alive bool [n + m]. labels: of subjects that have one. nearest: None searches exactly.
    """

    base: FloatArray
    tail: FloatArray
    owner: np.ndarray
    sample: IntArray
    alive: np.ndarray
    subjects: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    nearest: Nearest | None = None

    def __len__(self) -> int:
        return int(self.alive.sum())

    @classmethod
    def empty(cls) -> View:
        """No subject."""
        none = np.zeros((0, 0), np.float32)
        return cls(none, none, np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, bool))

    def counts(self) -> dict[str, int]:
        """Subjects that have samples, in the order of their enrolment, with how many."""
        numbers = np.bincount(self.owner[self.alive], minlength=len(self.subjects))
        return {name: int(number) for name, number in zip(self.subjects, numbers, strict=True) if number}

    def search(self, vector: FloatArray, k: int = 5) -> list[Match]:
        """The k nearest subjects by the cosine of their nearest sample, best first; equal scores by sample id.

        vector: float32 [d], made a unit vector here. ValueError for another dimension, or a vector of zeros.
        """
        query = unit(vector)
        if not len(self.alive):
            return []
        width = (self.base if len(self.base) else self.tail).shape[1]
        if query.shape != (width,):
            raise ValueError(f"search: expected {width} numbers, got {query.shape[0]}")
        if self.nearest is None:
            return self._best(_dot(self.base, self.tail, query), None, k)
        wanted = max(4 * k, 32)
        while True:
            scores, rows = self.nearest(query, min(wanted, len(self.base)))
            beside = np.arange(len(self.base), len(self.alive))
            all_scores = np.concatenate([scores, self.tail @ query]) if len(self.tail) else scores
            found = self._best(all_scores, np.concatenate([rows, beside]), k)
            if len(found) >= k or wanted >= len(self.base):
                return found
            wanted *= 4  # the nearest rows were of few subjects, or were deleted

    def vectors(self) -> tuple[FloatArray, IntArray]:
        """Every living sample: float32 [n, d], and its subject's place, int64 [n]."""
        blocks = [block for block in (self.base, self.tail) if len(block)]
        if not blocks:
            return np.zeros((0, 0), np.float32), np.zeros(0, np.int64)
        return np.concatenate(blocks)[self.alive], self.owner[self.alive].astype(np.int64)

    def _best(self, scores: FloatArray, rows: IntArray | None, k: int) -> list[Match]:
        alive = self.alive if rows is None else self.alive[rows]
        scores = np.where(alive, scores, -np.inf)
        count = min(len(scores), max(8 * k, 64))
        found: dict[int, Match] = {}
        while True:
            near = np.argpartition(-scores, count - 1)[:count] if count < len(scores) else np.arange(len(scores))
            places = near if rows is None else rows[near]
            for place in np.lexsort((self.sample[places], -scores[near])).tolist():
                row, score = int(places[place]), float(scores[near[place]])
                owner = int(self.owner[row])
                if score == -np.inf or len(found) == k:
                    break
                found.setdefault(owner, Match(self.subjects[owner], score, int(self.sample[row])))
            if len(found) == k or count == len(scores):
                return list(found.values())
            found, count = {}, min(len(scores), 8 * count)


def _dot(base: FloatArray, tail: FloatArray, query: FloatArray) -> FloatArray:
    parts = [block @ query for block in (base, tail) if len(block)]
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def unit(vector: FloatArray | Sequence[float]) -> FloatArray:
    """float32 [d] of length 1. ValueError for zeros, NaN or infinity."""
    given = np.asarray(vector, np.float32).ravel()
    norm = float(np.linalg.norm(given.astype(np.float64)))
    if not np.isfinite(norm) or norm <= 0:
        raise ValueError(f"expected a vector with a direction, got length {norm}")
    return (given / np.float32(norm)).astype(np.float32)
