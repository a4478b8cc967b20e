"""Open-set scores: AUROC equals scikit-learn's, a threshold keeps its false-accept rate on the data that chose it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.metrics.open_set import auroc, open_set_scores, threshold_for
from serving.errors import SpecInvalid


@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_scikit_learns_also_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    known, unknown = rng.integers(2, 9, 60) / 10, rng.integers(0, 7, 40) / 10
    truth = np.r_[np.ones(60), np.zeros(40)]
    assert auroc(known, unknown) == pytest.approx(roc_auc_score(truth, np.r_[known, unknown]), abs=1e-12)
    with pytest.raises(SpecInvalid, match="got 60 and 0"):
        auroc(known, unknown[:0])


@pytest.mark.parametrize("far", [0.0, 0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("levels", [7, 10_000])
def test_the_threshold_is_the_lowest_that_keeps_the_rate(far: float, levels: int) -> None:
    scores = np.random.default_rng(1).integers(0, levels, 200) / levels
    threshold = threshold_for(scores, far)
    assert (scores >= threshold).mean() <= far
    lower = scores[scores < threshold]
    if len(lower):
        assert (scores >= lower.max()).mean() > far, "a lower threshold would have kept it too"


def test_rates_by_hand() -> None:
    found = open_set_scores(
        best=np.array([0.9, 0.8, 0.3, 0.7, 0.2]),
        right=np.array([True, False, True, False, False]),
        accepted=np.array([True, True, False, True, False]),
        is_known=np.array([True, True, True, False, False]),
    )
    assert found.far == 0.5 and found.tar == pytest.approx(1 / 3)
    assert found.unknown_rate == pytest.approx(2 / 5) and found.known_refused == pytest.approx(1 / 3)
    assert found.auroc == pytest.approx(5 / 6)
    with pytest.raises(SpecInvalid, match="no unknown samples"):
        threshold_for(np.zeros(0), 0.1)
