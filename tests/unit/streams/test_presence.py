"""Who is on screen from when to when, by the last name of each track, unknowns apart; those names on the picture."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from typing import Any

import numpy as np

from serving import draw
from serving.frames import AlignedFrame, Frame, FrameResult, Outcome, Overlay
from serving.streams.drawing import Drawing
from serving.streams.presence import Presence
from serving.types import Detections, NamedDetections

MS = 1_000_000
PICTURE = np.zeros((120, 160, 3), np.uint8)


def shown(ms: int, *people: tuple[int, str], epoch: int = 1, measured: bool = True) -> AlignedFrame:
    n = len(people)
    xyxy = np.array([[10 + 50 * i, 40, 40 + 50 * i, 80] for i in range(n)], np.float32).reshape(n, 4)
    ids = np.array([track for track, _ in people], np.int64)
    columns = xyxy, np.full(n, 0.9, np.float32), np.zeros(n, np.int64), ids
    outcome = None
    if measured:
        found = NamedDetections(*columns, names=tuple(name for _, name in people))
        outcome = Outcome.of_result(FrameResult("faces", 1, "pipeline", found, "0" * 64))
    frame = Frame("cam", epoch, ms // 40, ms * MS, ms, Fraction(1, 1000), ("faces",), 0)
    overlay = Overlay("faces", outcome, Detections(*columns), np.zeros(n, np.uint8))
    return AlignedFrame(frame, ms * MS, (overlay,), 0)


def told(*frames: AlignedFrame) -> list[dict[str, Any]]:
    file = io.StringIO()
    presence = Presence("cam", file)
    for frame in frames:
        presence.write(frame)
    presence.close()
    document = json.loads(file.getvalue())
    assert document["source_id"] == "cam"
    people: list[dict[str, Any]] = document["people"]
    return people


def spans(person: dict[str, Any]) -> list[tuple[int, int]]:
    return [(s["from_pts_ns"] // MS, s["to_pts_ns"] // MS) for s in person["spans"]]


def test_a_tracks_last_name_counts_for_all_of_it() -> None:
    people = told(shown(0, (1, "unknown")), shown(40, (1, "unknown")), shown(80, (1, "Anna")))
    assert [(p["name"], p["tracks"], spans(p)) for p in people] == [("Anna", [1], [(0, 120)])]


def test_a_gap_ends_a_span_and_two_tracks_of_one_person_are_one() -> None:
    first = [shown(ms, (1, "Anna")) for ms in range(0, 400, 40)]
    between = [shown(ms) for ms in range(400, 5000, 40)]
    (anna,) = told(*first, *between, shown(5000, (7, "Anna")), shown(5040, (7, "Anna")))
    assert anna["tracks"] == [1, 7] and spans(anna) == [(0, 400), (5000, 5080)]


def test_unknown_people_stay_apart_and_an_epoch_begins_anew() -> None:
    people = told(shown(0, (1, "unknown"), (2, "unknown")), shown(40, (1, "unknown"), (2, "unknown")),
                  shown(0, (1, "unknown"), epoch=2))  # fmt: skip
    assert [(p["name"], p["epoch"], p["tracks"]) for p in people] == [
        ("unknown", 1, [1]), ("unknown", 1, [2]), ("unknown", 2, [1]),
    ]  # fmt: skip


def test_frames_without_a_result_and_boxes_without_a_name_say_nothing() -> None:
    assert told(shown(0, (1, "Anna"), measured=False), shown(40, (1, ""))) == []


def test_names_are_drawn_and_stay_with_their_track_on_filled_boxes(monkeypatch: Any) -> None:
    texts: list[str] = []
    monkeypatch.setattr(draw, "draw_label", lambda canvas, at, text, *rest: texts.append(text))
    drawing = Drawing({"faces": ("face",)}, banner=False)
    drawing(shown(0, (1, "Anna"), (2, "unknown")), PICTURE, "")
    assert texts == ["#2 unknown 0.90", "#1 Anna 0.90"]
    texts.clear()
    drawing(shown(40, (1, "?"), (3, "?"), measured=False), PICTURE, "")
    assert texts == ["#3 face 0.90", "#1 Anna 0.90"], "a track that nobody named is called by its class"
    texts.clear()
    drawing(shown(0, (1, "?"), epoch=2, measured=False), PICTURE, "")
    assert texts == ["#1 face 0.90"]
