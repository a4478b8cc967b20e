"""Track events: what is told, when, and that trembling on a border tells nothing twice."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from serving.errors import ParameterInvalid
from serving.frames import FrameResult, LedgerKey, Outcome, Posting
from serving.streams.event_lines import EventLines
from serving.tracking.events import EventKind, EventRules, TrackEvent, TrackEvents
from serving.tracking.rules_file import read_rules
from serving.types import Detections

MS = 1_000_000
ZONE = {"door": ((100.0, 0.0), (200.0, 0.0), (200.0, 100.0), (100.0, 100.0))}
LINE = {"gate": ((150.0, 0.0), (150.0, 100.0))}  # downwards: to its right is the picture's left


def at(x: float, y: float = 50, track: int = 1) -> Detections:
    """One box whose foot is at (x, y)."""
    xyxy = np.array([[x - 10, y - 40, x + 10, y]], np.float32)
    return Detections(xyxy, np.ones(1, np.float32), np.zeros(1, np.int64), np.array([track], np.int64))


def told(rules: EventRules, feet: list[float | None], step_ms: int = 40) -> list[TrackEvent]:
    """The events of one track that stands at these places, frame by frame; None: unseen."""
    fold = TrackEvents(rules)
    out = []
    for n, x in enumerate(feet):
        out += fold.update(Detections.empty() if x is None else at(x), n * step_ms * MS)
    return out + fold.finish(len(feet) * step_ms * MS)


def kinds(events: list[TrackEvent]) -> list[str]:
    return [f"{e.kind.value} {e.place}{e.direction}".strip() for e in events]


def test_a_walk_through_zone_and_line() -> None:
    events = told(EventRules(ZONE, LINE), [10.0 * n for n in range(31)])
    names = ["appear", "zone_enter door", "line_cross gateleft", "zone_leave door", "leave"]
    assert kinds(events) == names
    began = {e.kind: e.pts_ns // MS // 40 for e in events}
    assert began[EventKind.APPEAR] == 0 and began[EventKind.LEAVE] == 30
    assert began[EventKind.ZONE_ENTER] in (10, 11) and began[EventKind.LINE_CROSS] == 16
    assert all(e.told_ns - e.pts_ns >= 200 * MS for e in events[:4])


@pytest.mark.parametrize("step_ms", [20, 40, 100])
def test_trembling_on_a_border_is_debounced_by_time(step_ms: int) -> None:
    trembling = [150.0 + (8 if n % 2 else -8) for n in range(60)]
    assert kinds(told(EventRules({}, LINE), trembling, step_ms)) == ["appear", "leave"]
    undebounced = told(EventRules({}, LINE, settle_s=0), trembling, step_ms)
    assert kinds(undebounced).count("line_cross gateleft") > 20


def test_a_line_is_passed_between_its_points_only() -> None:
    around = TrackEvents(EventRules({}, LINE))
    events = [e for n in range(31) for e in around.update(at(10.0 * n, y=170), n * 40 * MS)]
    assert kinds(events) == ["appear"]
    there_and_back = [10.0 * n for n in range(31)] + [10.0 * n for n in range(30, -1, -1)]
    names = kinds(told(EventRules({}, LINE), there_and_back))
    assert names == ["appear", "line_cross gateleft", "line_cross gateright", "leave"]


def test_who_is_unseen_for_a_while_has_not_left_and_leaves_once() -> None:
    feet: list[float | None] = [120.0] * 20 + [None] * 20 + [120.0] * 20 + [None] * 40
    assert kinds(told(EventRules(ZONE), feet)) == ["appear", "zone_enter door", "zone_leave door", "leave"]


def test_a_flicker_of_one_frame_and_untracked_boxes_tell_nothing() -> None:
    assert told(EventRules(ZONE), [120.0]) == []
    fold = TrackEvents(EventRules(ZONE))
    assert [e for n in range(30) for e in fold.update(at(120, track=-1), n * 40 * MS)] == []


def test_lines_of_a_stream_end_tracks_with_their_epoch() -> None:
    file = StringIO()
    lines = EventLines("gate", EventRules(ZONE), {"people": ("person",)}, file)
    for epoch in (1, 2):
        for n in range(12):
            result = FrameResult("people", 1, "detection", at(120), "")
            lines.take(Posting(LedgerKey("gate", epoch, n, "people"), n * 40 * MS, Outcome.of_result(result)))
    lines.close()
    rows = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [(r["epoch"], r["event"]) for r in rows] == [
        (e, kind) for e in (1, 2) for kind in ("appear", "zone_enter", "zone_leave", "leave")
    ]
    assert rows[0] == {
        "source_id": "gate", "epoch": 1, "pipeline": "people", "event": "appear", "track_id": 1, "class_id": 0,
        "label": "person", "pts_ns": 0, "told_ns": 200 * MS,
    }  # fmt: skip


def test_a_rules_file(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("zones:\n  door: [[0, 0], [9, 0], [9, 9]]\nlines:\n  gate: [[0, 0], [0, 9]]\nsettle_s: 0.5\n")
    rules = read_rules(path)
    assert rules.zones["door"] == ((0, 0), (9, 0), (9, 9)) and rules.settle_s == 0.5


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("zonen: {}", "zonen.*known keys: zones, lines"),
        ("zones: {door: [[0, 0], [1, 1]]}", "zones.door: expected three points"),
        ("lines: {gate: [[1, 1], [1, 1]]}", "lines.gate: expected two different points"),
        ("lines: {gate: [[1, 1]]}", "lines.gate"),
        ("settle_s: -1", "settle_s"),
        ("a: [", "not YAML"),
    ],
)
def test_bad_rules_are_refused_by_name(text: str, about: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(ParameterInvalid, match=about):
        read_rules(path)
    with pytest.raises(ParameterInvalid, match="cannot be read"):
        read_rules(tmp_path / "none.yaml")
