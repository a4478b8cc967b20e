"""Is it the nearest subject, or somebody unknown? And from which cosine on, for a wanted false-accept rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.errors import ParameterInvalid
from serving.gallery.view import Match, View
from serving.types import FloatArray

_MAX_VECTORS = 4000  # pairs of these: 8 million, as many as a threshold needs
_LEAST_FAR = 2 / (_MAX_VECTORS * (_MAX_VECTORS - 1))  # one of all those pairs


@dataclass(frozen=True, slots=True)
class Rule:
    """threshold: least cosine of the nearest subject. margin: least lead over the next subject."""

    threshold: float
    margin: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """status: known, unknown. reason: why it is unknown: '' | empty_gallery | below_threshold | ambiguous.

    subject is '' for an unknown one. score, margin: of the nearest subject, known or not; margin is its lead over the
    next one (its score where there is none).
    """

    status: str
    reason: str
    subject: str
    score: float
    margin: float


def decide(matches: Sequence[Match], rule: Rule) -> Decision:
    """The decision about the nearest subjects, best first."""
    if not matches:
        return Decision("unknown", "empty_gallery", "", 0.0, 0.0)
    best = matches[0]
    lead = best.score - (matches[1].score if len(matches) > 1 else 0.0)
    if best.score < rule.threshold:
        return Decision("unknown", "below_threshold", "", best.score, lead)
    if len(matches) > 1 and lead < rule.margin:
        return Decision("unknown", "ambiguous", "", best.score, lead)
    return Decision("known", "", best.subject, best.score, lead)


@dataclass(frozen=True, slots=True)
class Threshold:
    """threshold: cosine. far: share of the impostor pairs at or above it. tar: share of pairs of one subject at or
    above it, None where no subject has two samples. impostors, genuine: numbers of pairs."""

    threshold: float
    far: float
    tar: float | None
    impostors: int
    genuine: int


def threshold_for(view: View, far: float) -> Threshold:
    """The least cosine with which at most `far` of the pairs of different subjects would be accepted.

    From the gallery's own samples: for a rate of one in n, n pairs of strangers are needed at least. ParameterInvalid
    where there are fewer. Source: ISO/IEC 19795-1, verification error rates.
    """
    if not _LEAST_FAR <= far < 1:
        raise ParameterInvalid(f"far: expected a rate between 0 and 1, of at least {_LEAST_FAR:.3g}, got {far:g}")
    vectors, owner = view.vectors()
    vectors, owner = vectors[-_MAX_VECTORS:], owner[-_MAX_VECTORS:]
    impostor, genuine = _pairs(vectors, owner)
    wanted = math.ceil(1 / far)
    if len(impostor) < wanted:
        raise ParameterInvalid(
            f"far {far:g}: needs {wanted} pairs of different subjects, the gallery has {len(impostor)}",
            hint="enrol more subjects, or ask for a higher rate",
        )
    impostor = np.sort(impostor)[::-1]
    accepted = int(far * len(impostor))  # so many pairs may pass
    threshold = float(np.nextafter(impostor[accepted], np.float32(2)))
    tar = float((genuine >= threshold).mean()) if len(genuine) else None
    return Threshold(threshold, float((impostor >= threshold).mean()), tar, len(impostor), len(genuine))


def _pairs(vectors: FloatArray, owner: np.ndarray) -> tuple[FloatArray, FloatArray]:
    """Cosines of pairs of different subjects, and of pairs of one."""
    if not len(vectors):
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    first, second = np.triu_indices(len(vectors), 1)
    scores = (vectors @ vectors.T)[first, second]
    same = owner[first] == owner[second]
    return scores[~same], scores[same]
