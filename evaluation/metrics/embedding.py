"""Scores of embeddings as a search: each sample asks for its neighbours among all others.

top1, topk: share of queries with a right neighbour among the first 1 or 5; r_precision: share of right ones among the
first R, R being how many right ones there are; map_at_r: the same, weighted by rank. Queries whose label no other
sample has are not counted. Source: Musgrave, Belongie and Lim 2020, "A Metric Learning Reality Check"; held equal to
pytorch-metric-learning by a test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.bad_cases import Verdict
from evaluation.family import Answers, Item, Parameters
from evaluation.labelled import read_labelled
from serving.errors import SpecInvalid
from serving.types import Array, Embedding, TaskResult

K = 5


class EmbeddingFamily:
    """Labels are names of things or persons: any text, as many samples of each as there are."""

    asks: Mapping[str, Parameters] = {"served": {}}

    def read(self, folder: Path, labels: Sequence[str]) -> list[Item]:
        """truth: the label's text."""
        return [Item(path.name, path, text) for path, text in read_labelled(folder)]

    def score(
        self, answers: Mapping[str, Sequence[TaskResult]], items: Sequence[Item], labels: Sequence[str]
    ) -> dict[str, Any]:
        """top1, top5, r_precision, map_at_r."""
        vectors = np.stack([r.vector for r in answers["served"] if isinstance(r, Embedding)])
        return retrieval_scores(vectors, [item.truth for item in items])

    def judge(self, answers: Answers, items: Sequence[Item], labels: Sequence[str]) -> list[Verdict]:
        """By how much the nearest sample of another label is nearer than the nearest of its own (cosine)."""
        vectors = np.stack([r.vector for r in answers["served"] if isinstance(r, Embedding)]).astype(np.float64)
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        table, truth = unit @ unit.T, np.array([item.truth for item in items])
        np.fill_diagonal(table, -np.inf)
        verdicts = []
        for row, label in zip(table, truth, strict=True):
            own = row[truth == label].max()
            other = int(np.where(truth == label, -np.inf, row).argmax())
            lead = row[other] - own if np.isfinite(own) and truth[other] != label else 0.0
            why = f"is {label}, nearest is {truth[other]} ({items[other].name}), {row[other]:.3f} against {own:.3f}"
            verdicts.append(Verdict(float(max(0.0, lead)), why if lead > 0 else ""))
        return verdicts


def retrieval_scores(vectors: Array, truth: Sequence[Any], k: int = K) -> dict[str, float]:
    """vectors: float [n, d]; neighbours by cosine. Memory is n x n. SpecInvalid where no label occurs twice."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.asarray(vectors / np.where(length > 0, length, 1.0), np.float64)
    table = unit @ unit.T
    np.fill_diagonal(table, -np.inf)
    ids = np.unique(np.asarray(truth), return_inverse=True)[1].ravel()
    order = np.argsort(-table, axis=1, kind="stable")[:, :-1]
    right = ids[order] == ids[:, None]
    wanted = right.sum(axis=1)
    right, wanted = right[wanted > 0], wanted[wanted > 0]
    if not len(right):
        raise SpecInvalid("retrieval needs at least two samples of one label")
    rank = np.arange(1, right.shape[1] + 1)
    first_r = right & (rank <= wanted[:, None])
    precision = np.cumsum(right, axis=1) / rank
    return {
        "top1": float(right[:, 0].mean()),
        f"top{k}": float(right[:, :k].any(axis=1).mean()),
        "r_precision": float((first_r.sum(axis=1) / wanted).mean()),
        "map_at_r": float(((precision * first_r).sum(axis=1) / wanted).mean()),
        "queries": float(len(right)),
    }


FAMILY = EmbeddingFamily()
