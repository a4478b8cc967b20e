"""Rows of a served model, asked through hand-made runners."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.parity import Judge, StageRow
from converters.rows_gates import decisions_only, gate_of
from converters.rows_server import Answer, Load, difference, served_row
from converters.samples import Sample
from serving.errors import Overloaded
from serving.spec import ModelSpec
from serving.tasks import task_named

SPEC = ModelSpec.model_validate(
    {
        "name": "small",
        "task": "classification",
        "factory": {"callable": "a:b"},
        "preprocess": {"width": 4, "height": 4},
        "labels": ["a", "b", "c"],
    }
)
TASK = task_named("classification")
SAMPLES = [Sample(f"s{i}.png", Path(f"s{i}.png"), bytes([i])) for i in range(20)]


class Fake:
    """Answers by the sample's number; the hooks change an answer or its order."""

    def __init__(self, score: float = 0.9, timing: float = 1.0, certificate_id: str = "uncertified") -> None:
        self.score, self.timing, self.certificate_id = score, timing, certificate_id
        self.asked: list[Mapping[str, Any]] = []
        self.together = self.most = 0
        self._lock = threading.Lock()

    def ask(self, sample: Sample, parameters: Mapping[str, Any]) -> Answer:
        with self._lock:
            self.together += 1
            self.most = max(self.most, self.together)
            self.asked.append(parameters)
        time.sleep(0.002)
        with self._lock:
            self.together -= 1
        return self.answer(sample.data[0])

    def answer(self, number: int) -> Answer:
        first = number % 3
        document = {
            "model": "small",
            "certificate_id": self.certificate_id,
            "classes": [
                {"class_id": first, "label": SPEC.labels[first], "score": self.score},
                {"class_id": (first + 1) % 3, "label": SPEC.labels[(first + 1) % 3], "score": 0.05},
            ],
            "timings_ms": {"infer": self.timing},
            "pixels_sha256": f"{number:064x}",
        }
        return Answer(document, task_named("classification").from_document(document))


def _row(runner: Any, local: Any | None = None) -> StageRow:
    gate = decisions_only(gate_of("server", TASK, SPEC))
    load = Load({"top_k": 5}, concurrent=8)
    return served_row("server", "c", runner, local or Fake(), SAMPLES, Judge(TASK, SPEC, SPEC.labels), gate, load)


def test_times_and_the_certificate_may_differ_nothing_else() -> None:
    fake = Fake(timing=99.0, certificate_id="0123456789ab")
    row = _row(fake)
    assert row.status == "passed", row.reason
    assert row.figures["identical"] == 20 and row.figures["requests"] == 20
    assert fake.most > 1 and {"top_k": 5} in fake.asked and {} in fake.asked


def test_the_smallest_difference_one_by_one_is_named() -> None:
    row = _row(Fake(score=0.900001))
    assert row.status == "failed" and "classes[0].score: 0.9 became 0.900001" in row.reason


class Crossed(Fake):
    """Right one by one; under load it answers with the neighbour's result."""

    def ask(self, sample: Sample, parameters: Mapping[str, Any]) -> Answer:
        super().ask(sample, parameters)
        return self.answer(sample.data[0] + 3 * bool(parameters))


def test_a_foreign_answer_with_the_same_decision_is_seen_by_its_pixels() -> None:
    row = _row(Crossed())
    assert row.status == "failed" and "8 at once: 20 of 20 samples" in row.reason and "other pixels" in row.reason
    assert row.figures["identical"] == 20


def test_other_pixels_are_told_before_other_answers() -> None:
    class Swapped(Fake):
        def answer(self, number: int) -> Answer:
            return super().answer(number + 1)

    assert "s0.png: other pixels (SHA-256 00000000" in _row(Swapped()).reason


def test_an_error_of_the_server_is_the_reason() -> None:
    class Full(Fake):
        def ask(self, sample: Sample, parameters: Mapping[str, Any]) -> Answer:
            raise Overloaded("the queue is full")

    assert _row(Full()).reason == "overloaded: the queue is full"


@pytest.mark.parametrize(
    ("a", "b", "told"),
    [
        ({"x": 1, "timings_ms": 3}, {"x": 1, "timings_ms": 4}, ""),
        ({"x": {"timings_ms": 3}}, {"x": {"timings_ms": 4}}, "x.timings_ms: 3 became 4"),
        ({"x": [1, 2]}, {"x": [1, 2, 3]}, "x: [1, 2] became [1, 2, 3]"),
        ({}, {"new": 1}, "new: None became 1"),
        ({"pixels_sha256": "a"}, {}, ""),
    ],
)
def test_differences_are_told_by_path(a: dict[str, Any], b: dict[str, Any], told: str) -> None:
    assert difference(a, b) == told


def test_results_are_read_back_from_documents() -> None:
    box = {"xyxy": [1, 2, 3, 4], "confidence": 0.5, "class_id": 2, "label": "c"}
    found: Any = task_named("detection").from_document({"detections": [box]})
    assert found.xyxy.tolist() == [[1, 2, 3, 4]] and found.class_id.tolist() == [2]
    assert len(task_named("detection").from_document({"detections": []})) == 0  # type: ignore[arg-type]
    vector: Any = task_named("embedding").from_document({"embedding": [1.0, 2.0]})
    assert vector.vector.dtype == np.float32
    with pytest.raises(ValueError, match="no numbers"):
        task_named("raw").from_document({})
