"""Retrieval scores are those of pytorch-metric-learning."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.metrics.embedding import retrieval_scores
from serving.errors import SpecInvalid


@pytest.mark.needs("torch")
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_pytorch_metric_learning(seed: int) -> None:
    import torch
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 12, 90)
    truth[0] = 99  # alone: asks in vain, and is not counted
    vectors = (np.eye(100)[truth] * 4 + rng.normal(0, 1, (90, 100))).astype(np.float32)
    ours = retrieval_scores(vectors, truth.tolist())
    names = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    judge = AccuracyCalculator(include=names, k="max_bin_count", knn_func=CustomKNN(CosineSimilarity()))
    theirs = judge.get_accuracy(torch.from_numpy(vectors), torch.from_numpy(truth))
    assert [ours["top1"], ours["r_precision"], ours["map_at_r"]] == pytest.approx([theirs[n] for n in names], abs=1e-6)
    assert 0.1 < ours["map_at_r"] < ours["top1"] < 1 and ours["queries"] == 89 and ours["top5"] >= ours["top1"]


def test_no_label_twice_cannot_be_scored() -> None:
    with pytest.raises(SpecInvalid, match="at least two samples"):
        retrieval_scores(np.eye(3), ["a", "b", "c"])
