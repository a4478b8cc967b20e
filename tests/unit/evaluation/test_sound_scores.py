"""`lockstep evaluate` on sounds: truth is read from labels.csv, events are counted over all and by class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluation.family import evaluate, family_named
from serving.errors import SpecInvalid
from serving.tasks.audio import truth_of
from serving.types import AudioEvents

LABELS = ("alarm", "knock")


def heard(*events: tuple[float, float, int]) -> AudioEvents:
    begin, end, kind = (np.array(column) for column in zip(*events, strict=True)) if events else [np.zeros(0)] * 3
    ns = [(np.asarray(times) * 1e9).round().astype(np.int64) for times in (begin, end)]
    count = len(events)
    return AudioEvents(np.arange(count), *ns, kind.astype(np.int64), np.ones(count, np.float32), np.zeros(count, bool),
                       (0, 10))  # fmt: skip


def test_events_are_matched_in_their_class(tmp_path: Path) -> None:
    rows = {"a.wav": "0.5-1.5:alarm;2-3:knock", "b.wav": "", "c.wav": "1-2:knock"}
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"{name},{text}\n" for name, text in rows.items()))
    for name in rows:
        (tmp_path / name).touch()
    family = family_named("audio")
    items = family.read(tmp_path, LABELS)
    assert [item.truth for item in items] == [[(0.5, 1.5, 0), (2, 3, 1)], [], [(1, 2, 1)]]
    answers = {"a.wav": heard((0.6, 1.4, 0), (2.1, 3.1, 0)), "b.wav": heard(), "c.wav": heard((1.0, 2.0, 1))}
    scores = evaluate(family, items, LABELS, lambda items, asks: ((answers[item.name],) for item in items))
    assert (scores["samples"], scores["matched"], scores["misses"], scores["false_alarms"]) == (3, 2, 1, 1)
    assert scores["event_f1"] == scores["precision"] == scores["recall"] == pytest.approx(2 / 3)
    assert scores["by_class"] == {"alarm": pytest.approx(2 / 3), "knock": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("1-2:siren", r"x.csv: unknown label 'siren'"),
        ("1-2", "unknown label ''"),
        ("2-1:alarm", "ends before it begins"),
        ("alarm", r"expected begin-end:label in seconds, as 0.5-1.25:alarm, got 'alarm'"),
        ("1e3-2:alarm", "expected begin-end"),
    ],
)
def test_a_label_that_says_nothing_is_refused_by_its_file(text: str, about: str) -> None:
    with pytest.raises(SpecInvalid, match=about):
        truth_of(text, LABELS, "x.csv")
    assert truth_of("1-2", ("speech",)) == [(1, 2, 0)], "one class needs no name"
