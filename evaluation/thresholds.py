"""Thresholds from a wanted false-accept rate on the user's own data, proven on a part of it that chose nothing.

Samples are dealt in turn, known and unknown ones apart: the first of two chooses, the second proves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evaluation.family import Ask, Item
from evaluation.metrics.classification import FAMILY, without_unknown
from evaluation.metrics.open_set import open_set_scores, threshold_for
from serving.errors import SpecInvalid
from serving.types import UNKNOWN, Array, Classification

MARGINS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
FEW = 20


@dataclass(frozen=True, slots=True)
class Scored:
    """Of each sample: its best class, that class's score, its lead over the runner-up, and the truth. All [n]."""

    class_id: Array
    score: Array
    lead: Array
    truth: Array

    def part(self, keep: Array) -> Scored:
        """Some of the samples."""
        return Scored(self.class_id[keep], self.score[keep], self.lead[keep], self.truth[keep])


def choose(
    items: Sequence[Item], ask: Ask, far: float, margin: float | None, labels: Sequence[str], by_class: bool
) -> dict[str, Any]:
    """The thresholds and what they give on both parts. margin None: the smallest of MARGINS with the best TAR.

    by_class: one threshold for each class, from the unknown samples that the class attracts; each may accept its share
    `far` of them. Raises SpecInvalid where there are no known or no unknown samples.
    """
    scored = _scored(items, ask)
    chooses = _every_other(scored.truth != UNKNOWN)
    chosen, held_out = scored.part(chooses), scored.part(~chooses)
    best: tuple[float, float, dict[int, float]] | None = None
    for lead in MARGINS if margin is None else (margin,):
        bounds = _thresholds(chosen, far, lead, by_class)
        tar = _measure(chosen, bounds, lead)["tar"]
        best = (tar, lead, bounds) if best is None or tar > best[0] + 1e-9 else best
    assert best is not None
    _, lead, bounds = best
    shown = {("*" if c == UNKNOWN else labels[c] if c < len(labels) else str(c)): v for c, v in bounds.items()}
    few = min(int((held_out.truth == UNKNOWN).sum()), int((held_out.truth != UNKNOWN).sum()))
    return {
        "thresholds": {"score_threshold": shown if by_class else shown["*"], "margin": lead},
        "wanted_far": far,
        "chosen_on": _measure(chosen, bounds, lead),
        "held_out": _measure(held_out, bounds, lead),
        "note": f"only {few} held-out samples of one side: the rates are rough" if few < FEW else "",
    }


def _scored(items: Sequence[Item], ask: Ask) -> Scored:
    rows = [without_unknown(a) for (a,) in ask(items, (FAMILY.asks["open"],)) if isinstance(a, Classification)]
    truth = np.array([item.truth[0] if len(item.truth) == 1 else UNKNOWN - 1 for item in items], np.int64)
    if (truth < UNKNOWN).any():
        name = items[int(np.flatnonzero(truth < UNKNOWN)[0])].name
        raise SpecInvalid(f"{name}: thresholds for refusal need one label a sample")
    if not (truth == UNKNOWN).any() or not (truth != UNKNOWN).any():
        hint = "label what must be refused `unknown`, or put it into a folder of that name"
        raise SpecInvalid("thresholds need known samples and samples labelled `unknown`", hint=hint)
    lead = [float(r.score[0] - r.score[1]) if len(r.score) > 1 else 1.0 for r in rows]
    first = np.array([r.class_id[0] for r in rows], np.int64)
    return Scored(first, np.array([float(r.score[0]) for r in rows]), np.array(lead), truth)


def _every_other(known: Array) -> Array:
    """True for the first, third ... known one, and likewise of the unknown ones."""
    place = np.where(known, np.cumsum(known), np.cumsum(~known))
    return np.asarray(place % 2 == 1)


def _thresholds(scored: Scored, far: float, margin: float, by_class: bool) -> dict[int, float]:
    """By class_id; UNKNOWN stands for all others. Samples that the margin refuses cannot be accepted falsely."""
    unknown = scored.truth == UNKNOWN
    score = np.where(scored.lead >= margin, scored.score, -np.inf)
    bounds = {UNKNOWN: max(0.0, threshold_for(score[unknown], far))}
    if by_class:
        for class_id in np.unique(scored.truth[~unknown]).tolist():
            attracted = score[unknown & (scored.class_id == class_id)]
            bounds[class_id] = max(0.0, threshold_for(attracted, far)) if len(attracted) else bounds[UNKNOWN]
    # Upwards at six digits, as answers are written: what was to stay outside stays outside.
    return {class_id: min(1.0, float(np.ceil(bound * 1e6) / 1e6)) for class_id, bound in bounds.items()}


def _measure(scored: Scored, bounds: dict[int, float], margin: float) -> dict[str, float]:
    if not len(scored.truth) or (scored.truth == UNKNOWN).all() or (scored.truth != UNKNOWN).all():
        return {}
    bound = np.array([bounds.get(int(c), bounds[UNKNOWN]) for c in scored.class_id])
    accepted = (scored.score >= bound) & (scored.lead >= margin)
    found = open_set_scores(scored.score, scored.class_id == scored.truth, accepted, scored.truth != UNKNOWN)
    return {"samples": float(len(scored.truth)), **asdict(found)}
