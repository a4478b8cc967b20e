"""The multi-label head: truth and thresholds as its YAML says; trained, it names the digits of unseen scenes."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from evaluation.metrics.classification import multi_label
from models.train import digits_multi
from serving.spec import ModelSpec
from serving.tasks.base import parse_parameters
from serving.tasks.classification import TASK
from serving.types import Classification

SPEC = ModelSpec.read(Path(__file__).resolve().parents[3] / "models" / "digits_multi.yaml")
SCORES = np.array([0.95, 0.25, 0.6, 0.31, 0.01, 0.29, 0.05, 0.02, 0.25, 0.1])
LOGITS = np.log(SCORES / (1 - SCORES))


def answered(logits: np.ndarray, **given: object) -> Classification:
    return TASK.postprocess(
        {SPEC.outputs[0]: logits.astype(np.float32)}, None, SPEC, parse_parameters(TASK, SPEC, given)
    )


@pytest.mark.parametrize(("scenario", "classes"), [("default", {0, 2}), ("sure", {0}), ("recall", {0, 2, 3, 1, 8})])
def test_each_class_has_its_threshold_in_each_scenario(scenario: str, classes: set[int]) -> None:
    found = answered(LOGITS, scenario=scenario, top_k=10)
    assert set(found.class_id.tolist()) == classes
    assert found.score.tolist() == sorted(found.score.tolist(), reverse=True)
    assert found.score[0] == pytest.approx(0.95, abs=1e-5), "a sigmoid of its own: the scores add up to more than 1"
    assert not len(answered(np.full(10, -5.0)).class_id), "no digit is a normal answer"


def test_the_samples_say_which_digits_are_in_them(tmp_path: Path) -> None:
    made = digits_multi.held_out(count=12)
    digits_multi.write_samples(made, tmp_path)
    with (tmp_path / "labels.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    truth = digits_multi.truth_of(made)
    assert [sorted(map(int, row["label"].split(";"))) for row in rows] == [np.flatnonzero(t).tolist() for t in truth]
    assert len({tuple(t) for t in truth.tolist()}) > 8 and truth.sum() > 20


@pytest.mark.long
@pytest.mark.needs("torch")
@pytest.mark.timeout(1800)
def test_the_trained_head_names_the_digits_of_unseen_scenes() -> None:
    import torch

    from models.architectures.digits_multi import digits_multi as build
    from models.train.digits import _tensor

    trained = digits_multi.train()
    assert trained.loss[-1] < trained.loss[0] / 3
    net = build().eval()
    net.load_state_dict(torch.load(io.BytesIO(trained.checkpoint), weights_only=True))
    made = digits_multi.held_out()
    with torch.no_grad():
        logits = net(_tensor(made.images)).numpy()
    truth = [tuple(np.flatnonzero(row).tolist()) for row in digits_multi.truth_of(made)]
    served = [answered(row, top_k=10) for row in logits]
    every = [answered(row, top_k=10, score_threshold=0.0) for row in logits]
    scores = multi_label(served, every, truth)
    assert scores["f1_micro"] == pytest.approx(trained.f1[-1], abs=0.01)
    expected = average_precision_score(digits_multi.truth_of(made), logits, average="macro")
    assert scores["map"] == pytest.approx(expected, abs=1e-6)
    assert scores["map"] >= 0.95 and scores["f1_micro"] >= 0.93 and scores["exact"] >= 0.8
