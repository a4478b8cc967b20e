"""Scores of classifiers against scikit-learn, the ways labels are written, and what cannot be scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, top_k_accuracy_score

from evaluation.family import Item, family_named
from evaluation.labelled import class_ids, read_labelled
from evaluation.metrics.classification import FAMILY
from evaluation.thresholds import choose
from serving.errors import SpecInvalid
from serving.types import UNKNOWN, Classification

LABELS = tuple("abcdefgh")


def ranked(scores: np.ndarray, threshold: float = 0.0) -> Classification:
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= threshold]
    return Classification(order.astype(np.int64), scores[order].astype(np.float32))


def items(truth: Sequence[tuple[int, ...]]) -> list[Item]:
    return [Item(f"{i}.png", Path(f"{i}.png"), t) for i, t in enumerate(truth)]


def test_single_label_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(3)
    table, truth = rng.random((80, 8)).astype(np.float32), rng.integers(0, 8, 80)
    table[np.arange(80), truth] += 0.3
    answers = [ranked(row) for row in table]
    found = FAMILY.score({"served": answers, "open": answers}, items([(int(t),) for t in truth]), LABELS)
    assert found["top1"] == pytest.approx(accuracy_score(truth, table.argmax(1)))
    assert found["top5"] == pytest.approx(top_k_accuracy_score(truth, table, k=5))
    assert found["f1"] == pytest.approx(f1_score(truth, table.argmax(1), average="macro"))
    assert "open_set" not in found
    assert sum(row["count"] for row in found["confusions"]) <= (table.argmax(1) != truth).sum()


def test_multi_label_scores_see_thresholds_and_order() -> None:
    table = np.array([[0.9, 0.8, 0.1], [0.2, 0.7, 0.1], [0.6, 0.1, 0.3], [0.1, 0.2, 0.1]], np.float32)
    truth: list[tuple[int, ...]] = [(0, 1), (1,), (2,), ()]
    answers = {"served": [ranked(row, 0.5) for row in table], "open": [ranked(row) for row in table]}
    found = FAMILY.score(answers, items(truth), LABELS)
    assert found["exact"] == 0.75  # the third is named 0, not 2
    assert found["f1_micro"] == pytest.approx(2 * 3 / (4 + 4))
    assert found["map"] == 1.0, "class 2 is best at its own sample, though below its threshold"


def test_refused_answers_are_scored_as_refused() -> None:
    refused = Classification(np.array([UNKNOWN], np.int64), np.array([0.6], np.float32))
    open_ = [ranked(np.array([0.9, 0.1])), ranked(np.array([0.2, 0.4])), ranked(np.array([0.6, 0.1]))]
    answers = {"served": [open_[0], refused, open_[2]], "open": open_}
    found = FAMILY.score(answers, items([(0,), (UNKNOWN,), (UNKNOWN,)]), LABELS)
    assert found["top1"] == 1.0
    assert found["open_set"] == {"auroc": 1.0, "far": 0.5, "tar": 1.0, "unknown_rate": 1 / 3, "known_refused": 0.0}


def test_labels_are_read_from_a_table_or_from_folders(tmp_path: Path) -> None:
    for name in ("a/1.png", "unknown/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [item.truth for item in FAMILY.read(tmp_path, LABELS)] == [(0,), (UNKNOWN,)]
    (tmp_path / "labels.csv").write_text("file,label\na/1.png,b;c\nunknown/2.png,\n", "utf-8")
    assert [item.truth for item in FAMILY.read(tmp_path, LABELS)] == [(1, 2), ()]
    (tmp_path / "labels.csv").write_text("file,label\n../outside.png,b\n", "utf-8")
    with pytest.raises(SpecInvalid, match="no such file"):
        read_labelled(tmp_path)
    with pytest.raises(SpecInvalid, match=r"unknown label 'dg' \(labels are"):
        class_ids("dg", ("cat", "cow"), "x.png")
    with pytest.raises(SpecInvalid, match="did you mean 'cow'"):
        class_ids("cov", ("cat", "cow"), "x.png")
    with pytest.raises(SpecInvalid, match="no labelled pictures"):
        read_labelled(tmp_path / "a")


def test_a_task_without_metrics_says_so() -> None:
    with pytest.raises(SpecInvalid, match="task raw: has no metrics"):
        family_named("raw")


class TestThresholds:
    @staticmethod
    def ask(given, asks):  # type: ignore[no-untyped-def]
        """Known ones score 0.6 to 1.0 on class 0 or 1; unknown ones 0.3 to 0.7 on class 1, with a small lead."""
        assert list(asks) == [FAMILY.asks["open"]]
        for item in given:
            place = int(item.name.split(".")[0]) / len(given)
            if item.truth != (UNKNOWN,):
                yield (ranked(np.eye(3)[item.truth[0]] * (0.6 + 0.4 * place) + 0.01),)
            else:
                score = 0.3 + 0.4 * place
                yield (ranked(np.array([0.1, score, score - 0.02])),)

    truth = tuple((i % 2,) if i % 4 else (UNKNOWN,) for i in range(400))

    def test_the_wanted_rate_is_kept_where_it_was_chosen_and_nearly_where_not(self) -> None:
        found = choose(items(self.truth), self.ask, 0.1, 0.0, LABELS, by_class=False)
        assert 0.08 <= found["chosen_on"]["far"] <= 0.1 and found["held_out"]["far"] <= 0.14
        assert found["thresholds"]["score_threshold"] == pytest.approx(0.66, abs=0.01)
        assert found["held_out"]["samples"] == 200 and not found["note"]

    def test_a_margin_is_chosen_where_it_lets_more_known_ones_pass(self) -> None:
        found = choose(items(self.truth), self.ask, 0.0, None, LABELS, by_class=False)
        assert found["thresholds"] == {"score_threshold": 0.0, "margin": 0.05}
        assert found["held_out"]["far"] == 0.0 and found["held_out"]["tar"] == 1.0

    def test_by_class_only_the_class_that_attracts_unknown_ones_is_strict(self) -> None:
        found = choose(items(self.truth), self.ask, 0.0, 0.0, LABELS, by_class=True)
        assert found["thresholds"]["score_threshold"]["b"] > 0.69
        with pytest.raises(SpecInvalid, match="need known samples and samples labelled"):
            choose(items([(0,)] * 4), self.ask, 0.0, 0.0, LABELS, by_class=False)
