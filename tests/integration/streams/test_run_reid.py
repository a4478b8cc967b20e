"""A pipeline that tells what its boxes look like, through the whole of `run` with DeepSORT and no `--reid`.

Two people walk at each other, are hidden for half a second, and turn back; who is surer changes meanwhile, so the rows
change places. Motion alone takes one for the other. Red is always the one on the left, so the results say who is who.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from serving.adapters.video.clips import ClipSpec, write_clip
from serving.errors import ParameterInvalid
from serving.pipelines import answer as join
from serving.pipelines.items import Item
from serving.streams.main import RunOptions, run_streams
from serving.streams.models import OpenedModel, OpenModel, in_process
from serving.types import Detections, FloatArray, PixelArray
from tests.unit.pipelines.pipeline_support import COLOURS, FakeModel, colour, pipeline

FPS, FRAMES, HIDDEN, TURN, STEP = 25, 52, range(20, 32), 26, 4
WIDE, HIGH, BODY = 320, 140, (40, 100)
STEPS: list[dict[str, Any]] = [
    {"name": "people", "do": "infer", "model": "blobs"},
    {"name": "person", "do": "crop", "of": "people"},
    {"name": "look", "do": "infer", "of": "person", "model": "shade"},
]
BOTH = {"detections": "people", "appearance": "look"}


def scene(number: int) -> PixelArray:
    """red comes from the left, green from the right; both walk back. A lamp in the corner is lit from the turn on."""
    rgb = np.full((HIGH, WIDE, 3), 20, np.uint8)
    rgb[:16, :16] = 255 if number >= TURN else 20
    if number in HIDDEN:
        return rgb
    x = STEP * (number if number < TURN else 2 * TURN - number)
    for name, left in (("red", x + 16), ("green", 2 * STEP * TURN - x + 16)):
        rgb[30 : 30 + BODY[1], left : left + BODY[0]] = COLOURS[name]
    return rgb


def blobs(pixels: PixelArray, parameters: Mapping[str, Any]) -> Detections:
    """Every bright body, best first: by the lamp's light the one on the right is surer."""
    _, _, found, _ = cv2.connectedComponentsWithStats((pixels.max(axis=2) > 110).astype(np.uint8))
    rows = sorted([x, y, x + w, y + h] for x, y, w, h, area in found[1:] if area > BODY[0] * BODY[1] // 2)
    boxes = np.array(rows[::-1] if pixels[8, 8, 0] > 110 else rows, np.float32).reshape(-1, 4)
    return Detections(boxes, np.linspace(0.95, 0.9, len(boxes)).astype(np.float32), np.zeros(len(boxes), np.int64))


@pytest.fixture
def open_model(tmp_path: Path) -> OpenModel:
    def parts() -> dict[str, FakeModel]:
        detector = FakeModel("blobs", "detection", blobs, ("person",))
        return {"blobs": detector, "shade": FakeModel("shade", "embedding", colour)}

    def opened(name: str) -> OpenedModel:
        if name == "people_seen":
            return in_process(pipeline(tmp_path, parts(), STEPS, BOTH))
        model = parts()[name]
        return OpenedModel(model.bundle, model.infer, model.close)

    return opened


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path, ticks = tmp_path / "clip.mp4", 90_000
    spec = ClipSpec("mp4", Fraction(1, ticks), rate=Fraction(FPS))
    write_clip(path, spec, ((scene(number), ticks + number * ticks // FPS) for number in range(FRAMES)))
    return path


@pytest.fixture
def ran(clip: Path, open_model: OpenModel, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    def run(model: str, reid: str = "") -> list[dict[str, Any]]:
        results = tmp_path / "r.jsonl"
        assert run_streams(RunOptions((str(clip),), (model,), "deepsort", results=results, reid=reid), open_model).ok
        return [json.loads(line) for line in results.read_text("utf-8").splitlines()]

    return run


def ids(line: Mapping[str, Any]) -> list[int]:
    """Track ids from left to right: red's, green's."""
    return [row.get("track_id", -1) for row in sorted(line["detections"], key=lambda row: row["xyxy"][0])]


def kept(lines: Sequence[Mapping[str, Any]]) -> bool:
    """Whether both had an id before they were hidden, and have the same one at the end."""
    before, after = ids(lines[HIDDEN.start - 1]), ids(lines[-1])
    assert len(lines) == FRAMES and len(before) == len(after) == 2 and min(*before, *after) > 0
    return before == after


def test_who_was_hidden_is_known_again_by_appearance_alone(ran: Callable[..., list[dict[str, Any]]]) -> None:
    lines = ran("people_seen")
    assert kept(lines)
    first, last = lines[0]["detections"], lines[-1]["detections"]
    assert first[0]["xyxy"][0] < first[1]["xyxy"][0] and last[0]["xyxy"][0] > last[1]["xyxy"][0], "rows change places"
    told = {name for line in lines for row in line["detections"] for name in row}
    assert told == {"xyxy", "confidence", "class_id", "label", "track_id", "origin"}, "no vector is written"
    assert not {"appearance", "steps", "failures"} & set(lines[-1])


def test_it_is_what_reid_with_the_same_two_models_gives(ran: Callable[..., list[dict[str, Any]]]) -> None:
    assert [line["detections"] for line in ran("people_seen")] == [line["detections"] for line in ran("blobs", "shade")]


def dropped(items: Sequence[Item], request: int, boxes: int) -> FloatArray | None:
    return None


def ordered_by_look(items: Sequence[Item], request: int, boxes: int) -> FloatArray | None:
    """The reddest first, whichever row it belongs to."""
    looks = appearance_of(items, request, boxes)
    return None if looks is None else looks[np.argsort(-looks[:, 0])]


appearance_of = join.appearance_of


@pytest.mark.parametrize("defect", [dropped, ordered_by_look])
def test_seeded_defects_appearances_dropped_or_at_other_rows_lose_who_is_who(
    ran: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, defect: Any
) -> None:
    monkeypatch.setattr(join, "appearance_of", defect)
    assert not kept(ran("people_seen"))


def test_a_model_of_which_nobody_tells_what_boxes_look_like_is_refused_before_the_run(
    ran: Callable[..., list[dict[str, Any]]],
) -> None:
    with pytest.raises(ParameterInvalid, match="--track deepsort: expected --reid .*blobs look like"):
        ran("blobs")
