"""What a family calls bad, and the page of the worst."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.bad_cases import bad_cases, page
from evaluation.family import Item, family_named
from serving.errors import SpecInvalid
from serving.types import UNKNOWN, Classification, Detections, Embedding, TaskResult

BOX = (0, 10.0, 10.0, 20.0, 20.0, 400.0, 0)  # class, x, y, w, h, area, crowd


def classes(*pairs: tuple[int, float]) -> Classification:
    return Classification(np.array([p[0] for p in pairs], np.int64), np.array([p[1] for p in pairs], np.float32))


def boxes(*rows: tuple[float, ...]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def found(task: str, results: Sequence[TaskResult], truths: Sequence[Any]) -> list[tuple[str, float, str]]:
    items = [Item(f"{n}.png", Path(f"{n}.png"), truth) for n, truth in enumerate(truths)]

    def ask(items: Sequence[Item], asks: Sequence[Any]) -> Iterator[tuple[TaskResult, ...]]:
        return (tuple(result for _ in asks) for result in results)

    cases, count = bad_cases(family_named(task), items, ("cat", "dog"), ask, 10)
    assert count == len(cases)
    return [(c.item.name, round(c.verdict.badness, 3), c.verdict.reason) for c in cases]


def test_a_sure_mistake_is_worse_than_an_unsure_one_and_a_right_answer_is_none() -> None:
    results = [classes((0, 0.9)), classes((1, 0.6)), classes((1, 0.9)), classes((UNKNOWN, 0.7), (0, 0.3))]
    assert found("classification", results, [(0,), (0,), (0,), (0,)]) == [
        ("2.png", 1.9, "is cat, said dog (0.90)"),
        ("3.png", 1.7, "is cat, said unknown (0.70)"),
        ("1.png", 1.6, "is cat, said dog (0.60)"),
    ]
    several = found("classification", [classes((0, 0.9)), classes((0, 0.9), (1, 0.8))], [(0, 1), (0, 1)])
    assert several == [("0.png", 1.0, "is cat, dog, said cat")]


def test_missed_objects_and_false_boxes() -> None:
    right = (10, 10, 30, 30, 0.9, 0)
    results = [boxes(right), boxes(), boxes(right, (60, 60, 90, 90, 0.8, 1)), boxes((10, 10, 30, 30, 0.9, 1))]
    assert found("detection", results, [[BOX]] * 4) == [
        ("3.png", 1.9, "1 of 1 objects missed, 1 false boxes (best 0.90)"),
        ("1.png", 1.0, "1 of 1 objects missed"),
        ("2.png", 0.8, "1 false boxes (best 0.80)"),
    ]


def test_an_embedding_nearer_to_another_label() -> None:
    angles = np.radians([0, 10, 90, 80, 12])
    results = [Embedding(np.array([np.cos(a), np.sin(a)], np.float32)) for a in angles]
    cases = found("embedding", results, ["a", "a", "b", "b", "b"])
    assert [name for name, _, _ in cases] == ["4.png", "1.png"]
    assert cases[0][2].startswith("is b, nearest is a (1.png), 0.999 against")


def test_the_page_holds_its_pictures_and_escapes_names() -> None:
    items = [Item("<b>.png", Path("<b>.png"), [BOX])]

    def ask(items: Sequence[Item], asks: Sequence[Any]) -> Iterator[tuple[TaskResult, ...]]:
        return (tuple(boxes() for _ in asks) for _ in items)

    cases, _ = bad_cases(family_named("detection"), items, ("cat",), ask, 1)
    told = page("t & t", "about", cases, lambda case: np.zeros((40, 40, 3), np.uint8))
    assert "&lt;b&gt;.png" in told and "<b>.png" not in told and told.count("data:image/jpeg") == 1
    assert "No sample went wrong" in page("t", "a", [], lambda case: np.zeros((4, 4, 3), np.uint8))


def test_a_family_without_a_judge_says_so() -> None:
    with pytest.raises(SpecInvalid, match="has no bad cases"):
        bad_cases(object(), [], (), lambda items, asks: iter(()), 3)  # type: ignore[arg-type]
