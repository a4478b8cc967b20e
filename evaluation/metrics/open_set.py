"""Telling known from unknown by a score: AUROC, false and true accept rates, and the threshold of a wanted rate.

`known` and `unknown` are scores, higher is surer: of a classifier's best class, or the similarity of pairs (same person
and two persons). A sample is accepted where its score is at or above the threshold.
Source: Phillips, Grother and Micheals 2011, Handbook of Face Recognition, chapter 21 (FAR, and TAR as the detection and
identification rate); the area under the curve as the share of ordered pairs (Mann and Whitney 1947), ties as one half.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from serving.errors import SpecInvalid
from serving.types import Array


@dataclass(frozen=True, slots=True)
class OpenSetScores:
    """far: share of unknown ones accepted; tar: of known ones accepted and rightly named; unknown_rate: of all
    answers, those refused; known_refused: of known ones, those refused."""

    auroc: float
    far: float
    tar: float
    unknown_rate: float
    known_refused: float


def auroc(known: Array, unknown: Array) -> float:
    """Area under the ROC curve, 0.5 for a coin; SpecInvalid where one side has no sample."""
    if not len(known) or not len(unknown):
        raise SpecInvalid(f"AUROC needs known and unknown samples, got {len(known)} and {len(unknown)}")
    ranks = rankdata(np.concatenate([known, unknown]))[: len(known)]
    return float((ranks.sum() - len(known) * (len(known) + 1) / 2) / (len(known) * len(unknown)))


def threshold_for(unknown: Array, far: float) -> float:
    """The lowest threshold at which at most a share `far` of these is accepted; 0 where all may be.

    Scores that tie are accepted or refused together, so the rate reached may be lower than the one wanted.
    """
    if not 0 <= far <= 1:
        raise SpecInvalid(f"false-accept rate: expected 0 to 1, got {far}")
    if not len(unknown):
        raise SpecInvalid("no unknown samples: a false-accept rate cannot be met")
    order = np.sort(np.asarray(unknown, np.float64))[::-1]
    allowed = int(np.floor(far * len(order) + 1e-9))
    return 0.0 if allowed >= len(order) else float(np.nextafter(order[allowed], np.inf))


def open_set_scores(best: Array, right: Array, accepted: Array, is_known: Array) -> OpenSetScores:
    """best: score of each sample's best class [n]; right: whether that class is the true one; accepted: whether the
    answer names a class; is_known: whether the truth does. Booleans [n]."""
    known, unknown = np.asarray(is_known, bool), ~np.asarray(is_known, bool)
    return OpenSetScores(
        auroc=auroc(best[known], best[unknown]),
        far=float(accepted[unknown].mean()),
        tar=float((accepted & right)[known].mean()),
        unknown_rate=float((~accepted).mean()),
        known_refused=float((~accepted)[known].mean()),
    )
