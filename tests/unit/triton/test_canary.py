"""A canary's verdict: right answers pass, also when batching moved them a little; wrong ones do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from triton_support import adder_model, colours_model, redness_model, settings_for

from serving.errors import StorageFailed
from serving.triton.canary import Canary
from serving.triton.derive import derive
from serving.types import Array

Tensors = dict[str, Array]
CLASSES: Tensors = {"class_id": np.array([[2, 0]], np.int32), "score": np.array([[0.7, 0.2]], np.float32)}
BOXES: Tensors = {
    "xyxy": np.array([[[0, 0, 10, 10], [20, 20, 40, 40]]], np.float32),
    "confidence": np.array([[0.9, 0.8]], np.float32),
    "class_id": np.array([[0, 1]], np.int32),
}
VECTOR: Tensors = {"embedding": np.array([[0.6, 0.8, 0.0]], np.float32)}
RAW: Tensors = {"logits": np.array([[[1.0, -2.0], [3.0, 0.5]]], np.float32)}
ALL = {"classification": CLASSES, "detection": BOXES, "embedding": VECTOR, "raw": RAW}


def verdict(task: str, **changed: Any) -> str:
    answer = {n: np.asarray(changed.get(n, a), a.dtype) for n, a in ALL[task].items()}
    return Canary("m", task, {}, {}, ALL[task]).verdict(answer)


@pytest.mark.parametrize("task", ALL)
def test_the_very_answer_passes(task: str) -> None:
    assert verdict(task) == ""


@pytest.mark.parametrize(
    ("task", "changed"),
    [
        ("classification", {"score": [[0.69, 0.22]]}),
        ("classification", {"class_id": [[0, 2]], "score": [[0.2, 0.7]]}),
        ("detection", {"xyxy": [[[0.2, 0, 10, 10.2], [20, 20.3, 40, 40]]], "confidence": [[0.91, 0.78]]}),
        ("embedding", {"embedding": [[0.61, 0.79, 0.01]]}),
        ("raw", {"logits": [[[1.01, -2.0], [3.02, 0.49]]]}),
    ],
)
def test_what_batching_moves_passes(task: str, changed: Tensors) -> None:
    assert verdict(task, **changed) == ""


@pytest.mark.parametrize(
    ("task", "changed", "words"),
    [
        ("classification", {"class_id": [[1, 0]]}, "class 2"),
        ("classification", {"score": [[0.5, 0.2]]}, "class 2"),
        ("classification", {"class_id": np.zeros((1, 0)), "score": np.zeros((1, 0))}, "empty"),
        (
            "detection",
            {"xyxy": np.zeros((1, 0, 4)), "confidence": np.zeros((1, 0)), "class_id": np.zeros((1, 0))},
            "empty",
        ),
        ("detection", {"class_id": [[0, 0]]}, "partner"),
        ("detection", {"xyxy": [[[0, 0, 10, 10], [30, 20, 50, 40]]]}, "IoU"),
        ("detection", {"confidence": [[0.9, 0.6]]}, "confidence"),
        ("embedding", {"embedding": [[0.8, 0.6, 0.0]]}, "cosine"),
        ("raw", {"logits": [[[-1.0, 2.0], [3.0, 0.5]]]}, "cosine"),
        ("raw", {"logits": [[[0.0, 0.0], [0.0, 0.0]]]}, "cosine"),
        ("raw", {"logits": [[[1.0, -2.0]]]}, "shape"),
    ],
)
def test_a_wrong_answer_is_named(task: str, changed: Tensors, words: str) -> None:
    assert words in verdict(task, **changed)


def test_a_missing_output_is_named() -> None:
    assert "score is missing" in Canary("m", "classification", {}, {}, CLASSES).verdict(
        {"class_id": CLASSES["class_id"]}
    )


@pytest.mark.parametrize("build", [colours_model, redness_model, adder_model])
def test_a_derived_canary_has_content_survives_the_file_and_agrees_with_itself(build: Any, tmp_path: Path) -> None:
    canary = derive(build(tmp_path / "repository"), settings_for(tmp_path))
    assert all(array.size for array in canary.expected.values())
    canary.write(tmp_path / "c.json")
    again = Canary.read(tmp_path / "c.json")
    assert again.request().parameters == canary.request().parameters
    assert again.verdict(dict(canary.expected)) == ""
    for name, array in canary.inputs.items():
        np.testing.assert_array_equal(again.inputs[name], array)


def test_a_broken_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"model_name": "m"}')
    with pytest.raises(StorageFailed, match=r"c\.json"):
        Canary.read(tmp_path / "c.json")
