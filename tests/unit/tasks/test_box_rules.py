"""Rules for boxes: bounds, zones, merged classes and votes, each counted by its name, each scenario with its own."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serving.errors import ParameterInvalid, SpecInvalid
from serving.frames import FrameResult
from serving.gateway.inference import stage_times
from serving.metrics import Metrics
from serving.spec import ModelSpec
from serving.streams.observe import count_rules
from serving.streams.sessions import session_of
from serving.tasks import task_named
from serving.tasks.base import parse_parameters
from serving.tasks.rules import RuledDetections
from serving.types import ImageSize, ImageTransform

TASK = task_named("detection")
LABELS = ("car", "van", "person")
HALF = ImageTransform(ImageSize(200, 200), ImageSize(100, 100), (0.5, 0.5))  # source pixels are twice the model's
# A car and a van that are one object, a person, and a small person far down.
BOXES = np.array([[10, 10, 50, 30], [10, 10, 50, 32], [70, 10, 80, 40], [70, 80, 74, 90]], np.float32)
SCORES = np.array([[0.9, 0, 0], [0, 0.8, 0], [0, 0, 0.7], [0, 0, 0.6]], np.float32)
RAW = {"boxes": BOXES, "scores": SCORES}


def spec(rules: dict[str, Any], **more: Any) -> ModelSpec:
    base = {"name": "m", "task": "detection", "checkpoint": {"format": "onnx", "path": "m.onnx"}}
    given = {**base, "preprocess": {"width": 100, "height": 100}, "labels": LABELS, "rules": rules, **more}
    return ModelSpec.model_validate(given).with_class_ids(LABELS)


def found(model: ModelSpec, scenario: str = "", raw: dict[str, Any] = RAW) -> RuledDetections:
    given = {"scenario": scenario} if scenario else {}
    result = TASK.postprocess(raw, HALF, model, parse_parameters(TASK, model, given))
    assert isinstance(result, RuledDetections)
    return result


@pytest.mark.parametrize(
    ("rule", "classes"),
    [
        ({"labels": ["person"], "min_area": 500}, [0, 1, 2]),  # the far one has 8 x 20 source pixels
        ({"min_area": 160}, [0, 1, 2, 2]),
        ({"min_area": 160.5}, [0, 1, 2]),
        ({"labels": ["car"], "max_area": 3200}, [0, 1, 2, 2]),
        ({"labels": ["car"], "max_area": 3199}, [1, 2, 2]),
        ({"min_aspect": 1}, [0, 1]),
        ({"max_aspect": 1}, [2, 2]),
        ({"zone": [[0, 0], [1, 0], [1, 0.5], [0, 0.5]]}, [0, 1, 2]),
        ({"zone": [[0, 0], [1, 0], [1, 0.5], [0, 0.5]], "keep": "outside"}, [2]),
        ({"zone": [[0, 0.35], [1, 0.35], [1, 1], [0, 1]], "point": "bottom"}, [2, 2]),
        ({"labels": ["car"], "zone": [[0.9, 0.9], [1, 0.9], [1, 1]]}, [1, 2, 2]),
    ],
)
def test_a_box_that_breaks_a_bound_goes_and_is_counted(rule: dict[str, Any], classes: list[int]) -> None:
    result = found(spec({"default": [{"name": "bound", **rule}]}))
    assert result.class_id.tolist() == classes
    assert result.counted == {"bound": 4 - len(classes)}
    assert result.runner_up is not None and len(result.runner_up) == len(classes)


def test_merged_classes_are_suppressed_as_one() -> None:
    merge = {"name": "vehicles", "labels": ["van"], "merge_into": "car"}
    result = found(spec({"default": [merge]}))
    assert result.class_id.tolist() == [0, 2, 2] and result.counted == {"vehicles": 1}
    after = found(spec({"default": [merge, {"name": "cars", "labels": ["car"], "max_area": 1}]}))
    assert after.class_id.tolist() == [2, 2] and after.counted == {"vehicles": 1, "cars": 1}


def test_each_scenario_has_its_own_rules_and_default_where_it_has_none() -> None:
    rules = {
        "default": [{"name": "cars", "labels": ["car"], "min_area": 1e6}],
        "night": [{"name": "all", "min_area": 1e6}],
    }
    model = spec(rules, thresholds={"far": {"score_threshold": 0.65}})
    assert found(model).class_id.tolist() == [1, 2, 2]
    assert len(found(model, "night")) == 0 and found(model, "night").scenario == "night"
    assert found(model, "far").class_id.tolist() == [1, 2]
    with pytest.raises(ParameterInvalid, match=r"expected one of \['default', 'far', 'night'\]"):
        parse_parameters(TASK, model, {"scenario": "fog"})


def test_the_document_tells_the_counts_and_gives_them_back() -> None:
    result = found(spec({"default": [{"name": "cars", "labels": ["car"], "min_area": 1e6}]}))
    document = TASK.to_document(result, LABELS)
    assert document["rules"] == {"scenario": "default", "counted": {"cars": 1}}
    back = TASK.from_document(document)
    assert isinstance(back, RuledDetections) and back.counted == {"cars": 1}
    assert "rules" not in TASK.to_document(TASK.postprocess(RAW, HALF, spec({}), {}), LABELS)


def test_what_each_rule_did_is_counted_by_gateway_and_streams() -> None:
    model = spec({"default": [{"name": "cars", "labels": ["car"], "min_area": 1e6}, {"name": "none", "min_area": 1}]})
    result, metrics = found(model), Metrics()
    count_rules(metrics, FrameResult("m", 1, "detection", result, "0" * 64))
    count_rules(metrics, FrameResult("m", 1, "detection", TASK.postprocess(RAW, HALF, spec({}), {}), "0" * 64))
    document = {"timings_ms": {"infer": 1}, "certificate_id": "c", **TASK.to_document(result, LABELS)}
    context: Any = SimpleNamespace(metrics=metrics, catalogue=SimpleNamespace(label=lambda name: name))
    stage_times(context, SimpleNamespace(name="m", certificate_id="c"), json.dumps(document).encode())  # type: ignore[arg-type]
    told = metrics.exposition().decode()
    assert 'lockstep_rule_boxes_total{model="m",rule="cars"} 2.0' in told
    assert 'lockstep_rule_boxes_total{model="m",rule="none"} 0.0' in told


def test_a_box_stays_where_enough_of_the_last_frames_have_it() -> None:
    vote = {"name": "steady", "labels": ["person"], "vote": {"of": 3, "at_least": 2, "iou": 0.5}}
    model = spec({"default": [vote]})
    new = session_of(TASK, model, {})
    assert new is not None and session_of(TASK, spec({}), {}) is None
    session, picture = new(), np.zeros((200, 200, 3), np.uint8)
    away = {"boxes": BOXES, "scores": SCORES * np.array([1, 1, 0], np.float32)}
    seen = []
    for number, raw in enumerate([RAW, RAW, away, RAW, away, away, RAW]):
        result = session.update(found(model, raw=raw), number, picture)
        assert isinstance(result, RuledDetections)
        seen.append(((result.class_id == 2).sum().item(), result.counted["steady"]))
        assert (result.class_id < 2).sum() == 2, "the rule is for persons only"
    assert seen == [(0, 2), (2, 0), (0, 0), (2, 0), (0, 0), (0, 0), (0, 2)]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"name": "a"}, "expected one of: bounds"),
        ({"name": "a", "min_area": 1, "merge_into": "car", "labels": ["van"]}, "expected one of: bounds"),
        ({"name": "a", "merge_into": "car"}, "merge_into needs `labels`"),
        ({"name": "a", "zone": [[0, 0], [1, 1]]}, "zone: expected at least 3 points, got 2"),
        ({"name": "a", "min_area": 9, "max_area": 3}, "min_area 9 is over max_area 3"),
        ({"name": "a", "vote": {"of": 2, "at_least": 3}}, r"at_least: expected at most of \(2\), got 3"),
        ({"name": "a", "min_aera": 3}, "unknown key; did you mean 'min_area'"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_with_its_line(rule: dict[str, Any], message: str, tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "m.yaml"
    base = {"name": "m", "task": "detection", "checkpoint": {"format": "onnx", "path": "m.onnx"}}
    path.write_text(yaml.safe_dump({**base, "preprocess": {"width": 9, "height": 9}, "rules": {"default": [rule]}}))
    with pytest.raises(SpecInvalid, match=message):
        ModelSpec.read(path)


def test_labels_that_the_model_lacks_are_named() -> None:
    with pytest.raises(SpecInvalid, match=r"m: rules.default.a: unknown label 'vann'.*"):
        spec({"default": [{"name": "a", "labels": ["vann"], "min_area": 1}]})
    with pytest.raises(SpecInvalid, match=r"m: rules.default.a: unknown label 'bus'"):
        spec({"default": [{"name": "a", "labels": ["van"], "merge_into": "bus"}]})
