"""Unknown is a label of its own: three ways to refuse, thresholds by class, margin, and agreement about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from serving.errors import SpecInvalid
from serving.spec import ModelSpec
from serving.tasks import task_named
from serving.tasks.base import check_thresholds, parse_parameters
from serving.types import Classification

TASK = task_named("classification")
CAT_DOG = ("cat", "dog", "other")


def spec(options: dict[str, Any], **thresholds: Any) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "m", "task": "classification", "checkpoint": {"format": "onnx", "path": "m.onnx"},
            "preprocess": {"width": 8, "height": 8}, "labels": CAT_DOG, "options": options,
            "thresholds": {"default": thresholds} if thresholds else {},
        }
    ).with_class_ids(CAT_DOG)  # fmt: skip


def answer(model: ModelSpec, scores: list[float], **given: Any) -> Classification:
    found = TASK.postprocess({"y": np.array(scores, np.float32)}, None, model, parse_parameters(TASK, model, given))
    assert isinstance(found, Classification)
    return found


def labels(model: ModelSpec, scores: list[float], **given: Any) -> list[str]:
    document = TASK.to_document(answer(model, scores, **given), CAT_DOG)
    return [row["label"] for row in document["classes"]]


def test_below_every_threshold_is_unknown_and_says_how_near_it_was() -> None:
    model = spec({"activation": "none", "unknown": True}, score_threshold=0.5)
    found = answer(model, [0.4, 0.3, 0.1])
    assert found.class_id.tolist() == [-1] and found.score.tolist() == pytest.approx([0.6])
    assert labels(model, [0.6, 0.3, 0.1]) == ["cat"]
    assert labels(model, [0.4, 0.3, 0.1], score_threshold=0.2) == ["cat", "dog"]
    assert labels(spec({"activation": "none"}, score_threshold=0.5), [0.4, 0.3, 0.1]) == []


def test_each_class_has_its_own_threshold() -> None:
    model = spec({"activation": "none", "unknown": True}, score_threshold={"cat": 0.9, "*": 0.3})
    assert labels(model, [0.8, 0.1, 0.1]) == ["unknown"]
    assert labels(model, [0.8, 0.4, 0.1]) == ["dog"]
    assert labels(model, [0.95, 0.4, 0.1], top_k=1) == ["cat"]


def test_the_other_class_refuses_and_is_never_an_answer() -> None:
    model = spec({"activation": "none", "unknown": True, "other_class": 2})
    assert labels(model, [0.2, 0.1, 0.7]) == ["unknown", "cat", "dog"]
    assert labels(model, [0.6, 0.1, 0.3]) == ["cat", "dog"]
    assert answer(model, [0.2, 0.1, 0.7]).score.tolist() == pytest.approx([0.8, 0.2, 0.1])


def test_a_small_lead_is_unknown_with_the_candidates_behind_it() -> None:
    model = spec({"activation": "none", "unknown": True}, margin=0.2)
    assert labels(model, [0.5, 0.4, 0.1]) == ["unknown", "cat", "dog", "other"]
    assert labels(model, [0.7, 0.3, 0.1])[0] == "cat"


def test_cosines_to_class_embeddings_become_scores() -> None:
    model = spec({"activation": "cosine", "unknown": True}, score_threshold=0.75)
    assert answer(model, [0.6, -1.0, 0.0]).score.tolist() == pytest.approx([0.8])
    assert labels(model, [0.4, -1.0, 0.0]) == ["unknown"]


@pytest.mark.parametrize(
    ("options", "thresholds", "message"),
    [
        ({"other_class": 2}, {}, "other_class: needs options.unknown"),
        ({}, {"margin": 0.2}, "margin: needs options.unknown"),
        (
            {},
            {"score_treshold": 0.2},
            "thresholds.default: unknown parameter 'score_treshold'; classification has",
        ),
        ({}, {"score_threshold": 1.5}, "expected 0.0 to 1.0, got 1.5"),
        ({"unknown": True}, {"margin": {"cat": 0.1}}, "margin: expected one number"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options: Any, thresholds: Any, message: str) -> None:
    with pytest.raises(SpecInvalid, match=message):
        model = spec(options, **thresholds)
        TASK.check(model)
        check_thresholds(TASK, model)


def test_a_threshold_of_an_unknown_label_is_refused() -> None:
    with pytest.raises(SpecInvalid, match="unknown label 'cta' .did you mean 'cat'"):
        spec({}, score_threshold={"cta": 0.5})


def test_known_become_unknown_is_another_decision_unless_the_score_hardly_moved() -> None:
    model = spec({"activation": "none", "unknown": True, "other_class": 2})
    known, refused, near = (
        answer(model, [0.9, 0.1, 0.0]),
        answer(model, [0.3, 0.1, 0.6]),
        answer(model, [0.5, 0.1, 0.4]),
    )
    just = answer(model, [0.48, 0.1, 0.49])
    assert not TASK.agree(known, refused, {"margin": 0.05}, model).ok
    assert TASK.agree(near, just, {"margin": 0.05}, model).ok
    assert not TASK.agree(near, just, {"margin": 0.0}, model).ok
    assert TASK.agree(refused, refused, {"margin": 0.0}, model).ok


def test_a_multi_label_head_agrees_in_every_class_that_is_shown() -> None:
    model = spec({"activation": "sigmoid"})
    a, b = answer(model, [3.0, 0.0, -3.0]), answer(model, [3.0, 1.0, -3.0])
    assert not TASK.agree(a, b, {"margin": 0.1}, model).ok, "the second class moved by 0.23"
    assert TASK.agree(a, a, {"margin": 0.0}, model).ok


def test_scores_read_unknown_and_several_labels() -> None:
    model = spec({"activation": "none", "unknown": True}, score_threshold=0.5)
    results = [answer(model, [0.9, 0.8, 0.1]), answer(model, [0.1, 0.1, 0.1])]
    assert TASK.score("top1", results, ["0", "-1"], model) == 1.0
    assert TASK.score("f1", results, ["0;1", ""], model) == 1.0
    assert TASK.score("f1", results, ["0;1;2", ""], model) == pytest.approx(0.8)
