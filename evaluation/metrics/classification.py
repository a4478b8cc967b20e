"""Scores of classifiers: one class a sample, several (multi-label), and with unknown ones among them.

Truth: `labels.csv` or a subfolder a label. A label is a class name or class_id; several as `cat;dog`; `unknown` is
what the model must refuse. Curves are scikit-learn's; a class without samples is left out of means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from evaluation.bad_cases import Verdict
from evaluation.family import Answers, Item, Parameters
from evaluation.labelled import class_ids, read_labelled
from evaluation.metrics.open_set import open_set_scores
from serving.types import UNKNOWN, UNKNOWN_LABEL, Array, Classification, TaskResult

CONFUSIONS = 10


class ClassificationFamily:
    """served: as the model answers users; open: every class with its score, nothing refused."""

    asks: Mapping[str, Parameters] = {
        "served": {},
        "open": {"score_threshold": 0.0, "margin": 0.0, "top_k": 1000},
    }

    def read(self, folder: Path, labels: Sequence[str]) -> list[Item]:
        """truth: a tuple of class ids; (UNKNOWN,) for `unknown`, () for no class."""
        return [
            Item(path.name, path, (UNKNOWN,) if text == UNKNOWN_LABEL else class_ids(text, labels, str(path)))
            for path, text in read_labelled(folder)
        ]

    def score(
        self, answers: Mapping[str, Sequence[TaskResult]], items: Sequence[Item], labels: Sequence[str]
    ) -> dict[str, Any]:
        """top1, top5, precision, recall, f1 (macro), confusions; or those of multi-label; and open_set."""
        served = [r for r in answers["served"] if isinstance(r, Classification)]
        scores = [without_unknown(r) for r in answers["open"] if isinstance(r, Classification)]
        truth = [item.truth for item in items]
        if any(len(t) != 1 for t in truth):
            return multi_label(served, scores, truth)
        ids = np.array([t[0] for t in truth], np.int64)
        known = ids != UNKNOWN
        found = single_label([r for r, k in zip(scores, known, strict=True) if k], ids[known], labels)
        if known.any() and not known.all():
            found["open_set"] = asdict(refusal(served, scores, ids))
        return found

    def judge(self, answers: Answers, items: Sequence[Item], labels: Sequence[str]) -> list[Verdict]:
        """Several labels: how many are missing or too many. One: 1 + the score of what was said in its place."""
        pairs = zip(answers["served"], items, strict=True)
        return [_judged(r, item.truth, labels) for r, item in pairs if isinstance(r, Classification)]


def _judged(served: Classification, truth: tuple[int, ...], labels: Sequence[str]) -> Verdict:
    def named(ids: Sequence[int]) -> str:
        names = {**dict(enumerate(labels)), UNKNOWN: UNKNOWN_LABEL}
        return ", ".join(names.get(i, str(i)) for i in ids) or "nothing"

    if len(truth) != 1:
        said = without_unknown(served).class_id.tolist()
        wrong = len(set(said) ^ set(truth))
        return Verdict(float(wrong), f"is {named(truth)}, said {named(said)}" if wrong else "")
    first = int(served.class_id[0]) if len(served.class_id) else UNKNOWN
    if first == truth[0]:
        return Verdict(0.0)
    score = float(served.score[0]) if len(served.score) else 0.0
    return Verdict(1 + score, f"is {named(truth)}, said {named([first])} ({score:.2f})")


def without_unknown(result: Classification) -> Classification:
    """The classes alone, also where the answer was refused."""
    keep = result.class_id != UNKNOWN
    return Classification(result.class_id[keep], result.score[keep])


def single_label(scores: Sequence[Classification], truth: Array, labels: Sequence[str]) -> dict[str, Any]:
    """truth: int64 [n]. precision, recall, f1: of the best class, mean over the classes that occur in the truth."""
    if not len(truth):
        return {}
    best = np.array([r.class_id[0] for r in scores], np.int64)
    top5 = float(np.mean([t in r.class_id[:5] for r, t in zip(scores, truth.tolist(), strict=True)]))
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, best, labels=np.unique(truth), average="macro", zero_division=0.0
    )
    wrong = Counter((t, b) for t, b in zip(truth.tolist(), best.tolist(), strict=True) if t != b)
    name = dict(enumerate(labels))
    return {
        "top1": float((best == truth).mean()), "top5": top5, "precision": float(precision), "recall": float(recall),
        "f1": float(f1),
        "confusions": [
            {"truth": name.get(t, str(t)), "answer": name.get(b, str(b)), "count": n}
            for (t, b), n in wrong.most_common(CONFUSIONS)
        ],
    }  # fmt: skip


def multi_label(
    served: Sequence[Classification], scores: Sequence[Classification], truth: Sequence[tuple[int, ...]]
) -> dict[str, Any]:
    """map: mean over classes of the average precision; f1_micro and f1_macro at the thresholds as served; exact: share
    of samples whose whole set of classes is right."""
    classes = 1 + max([c for t in truth for c in t] + [int(c) for r in scores for c in r.class_id] + [0])
    wanted, given = np.zeros((len(truth), classes), bool), np.zeros((len(truth), classes), bool)
    sure = np.zeros((len(truth), classes))
    for row, (t, answer, every) in enumerate(zip(truth, served, scores, strict=True)):
        wanted[row, [c for c in t if c != UNKNOWN]] = True
        given[row, without_unknown(answer).class_id] = True
        sure[row, every.class_id] = every.score
    seen = wanted.any(axis=0)
    micro = precision_recall_fscore_support(wanted, given, average="micro", zero_division=0.0)
    macro = precision_recall_fscore_support(wanted[:, seen], given[:, seen], average="macro", zero_division=0.0)
    return {
        "map": float(average_precision_score(wanted[:, seen], sure[:, seen], average="macro")),
        "precision_micro": float(micro[0]), "recall_micro": float(micro[1]), "f1_micro": float(micro[2]),
        "f1_macro": float(macro[2]), "exact": float((wanted == given).all(axis=1).mean()),
    }  # fmt: skip


def refusal(served: Sequence[Classification], scores: Sequence[Classification], truth: Array) -> Any:
    """Open-set scores of the answers as served; AUROC of the best class's score."""
    best = np.array([r.score[0] for r in scores])
    first = np.array([r.class_id[0] if len(r.class_id) else UNKNOWN for r in served], np.int64)
    return open_set_scores(best, first == truth, first != UNKNOWN, truth != UNKNOWN)


FAMILY = ClassificationFamily()
