"""Trackers, a pipeline with a gallery and the map of a pitch over a real broker: what `lockstep run` says of the file.

The clips are drawn, so that each frame's PTS says where its objects are: a result that belongs to another picture is
seen in its own numbers, without asking any of our code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from serving.adapters.video.clips import ClipSpec, write_clip
from serving.align import Balance
from serving.errors import ServingError
from serving.ports_log import RecordLog
from serving.preprocess.jpeg import JpegCodec
from serving.records import StreamMessage
from serving.roles.names import Names
from serving.streams.main import RunOptions, run_streams
from serving.streams.models import OpenedModel, OpenModel, in_process
from serving.testing.pitch_scene import Scene, sweep
from serving.types import Detections, InferRequest, InferResponse, PixelArray
from tests.integration.kafka import test_sound_on_kafka as over
from tests.unit.pipelines.pipeline_support import COLOURS, FakeModel, colour, enrol, pipeline
from tests.unit.pipelines.test_pitch_step import PITCH_STEP, alone

NS, TICKS = 1_000_000_000, 90_000
FPS, FRAMES, WIDE, HIGH, SIDE = 12, 36, 320, 160, 24
PITCH_FPS, PITCH_FRAMES, PITCH_SIZE = 6, 6, (960, 540)
LANES: Mapping[str, tuple[int, float]] = {
    "red": (20, 4.0),
    "green": (70, -3.0),
    "blue": (120, 2.5),
}  # y, pixels a frame
CHAIN: list[dict[str, Any]] = [
    {"name": "boxes", "do": "infer", "model": "blobs"},
    {"name": "crops", "do": "crop", "of": "boxes"},
    {"name": "look", "do": "infer", "of": "crops", "model": "shade"},
    {"name": "who", "do": "match", "of": "look", "gallery": "people", "options": {"threshold": 0.98}},
]
MAP_AND_PEOPLE: list[dict[str, Any]] = [
    {"name": "players", "do": "infer", "model": "players"},
    {**PITCH_STEP, "of": "players"},
]


@dataclass(frozen=True)
class Row:
    """A workload: its model, the tracker, the embedding model of that, and which clip."""

    model: str
    track: str = ""
    reid: str = ""
    pitch: bool = False


ROWS = {
    "bytetrack": Row("blobs", "bytetrack"),
    "ocsort": Row("blobs", "ocsort"),
    "deepsort": Row("blobs", "deepsort", "shade"),
    "pipeline_with_gallery": Row("who_is_it", "bytetrack"),
    "pipeline_with_appearance": Row("seen_again", "deepsort"),
    "pitch_homography": Row("map", pitch=True),
    "player_map": Row("map_and_people", pitch=True),
}


def corner(name: str, pts_ns: int) -> tuple[float, int]:
    """Where an object is by the time of its picture."""
    y, speed = LANES[name]
    return (20 if speed > 0 else WIDE - 20 - SIDE) + speed * (pts_ns * FPS / NS), y


def scene(number: int) -> PixelArray:
    rgb = np.full((HIGH, WIDE, 3), 20, np.uint8)
    for name in LANES:
        x, y = corner(name, number * NS // FPS)
        rgb[y : y + SIDE, round(x) : round(x) + SIDE] = COLOURS[name]
    return rgb


def blobs(pixels: PixelArray, parameters: Mapping[str, Any]) -> Detections:
    """Every bright object, from the top down."""
    _, _, found, _ = cv2.connectedComponentsWithStats((pixels.max(axis=2) > 110).astype(np.uint8))
    rows = sorted(((y, x, w, h) for x, y, w, h, area in found[1:] if area > SIDE * SIDE // 2), key=lambda row: row[0])
    boxes = np.array([[x, y, x + w, y + h] for y, x, w, h in rows], np.float32).reshape(-1, 4)
    return Detections(boxes, np.full(len(boxes), 0.9, np.float32), np.zeros(len(boxes), np.int64))


def nobody(pixels: PixelArray, parameters: Mapping[str, Any]) -> Detections:
    """Two people who stand still in the picture: on the pitch they move as the camera does."""
    boxes = np.array([[400, 300, 420, 350], [500, 320, 520, 370]], np.float32)
    return Detections(boxes, np.full(2, 0.9, np.float32), np.zeros(2, np.int64))


def seeing(model: FakeModel) -> OpenedModel:
    """It is asked about JPEG or about pixels."""

    def infer(requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
        decode = JpegCodec().decode
        return model.infer(
            [replace(r, encoded=None, frame=decode(bytes(r.encoded))) if r.encoded else r for r in requests]
        )

    return OpenedModel(model.bundle, infer, model.close)


@pytest.fixture
def open_model(tmp_path: Path) -> OpenModel:
    parts = {
        "blobs": FakeModel("blobs", "detection", blobs, ("thing",)),
        "shade": FakeModel("shade", "embedding", colour),
        "players": FakeModel("players", "detection", nobody, ("person",)),
    }
    who = pipeline(tmp_path, parts, CHAIN, {"detections": "boxes", "fields": ["who"]})
    enrol(tmp_path, who, "red", "green")
    again = pipeline(tmp_path, parts, CHAIN[:3], {"detections": "boxes", "appearance": "look"})
    people = pipeline(tmp_path, parts, MAP_AND_PEOPLE, {"detections": "players", "fields": ["pitch"]})
    made: dict[str, Callable[[], OpenedModel]] = {
        "who_is_it": lambda: in_process(who),
        "seen_again": lambda: in_process(again),
        "map_and_people": lambda: in_process(people),
        "map": lambda: in_process(alone(tmp_path)),
    }

    def opened(name: str) -> OpenedModel:
        if name in made:
            return made[name]()
        return seeing(parts[name])

    return opened


def clip(folder: Path, pitch: bool) -> Path:
    """B-frames, and PTS that begin at a second: decode order and a count from zero would both be seen."""
    fps, path = (PITCH_FPS, folder / "pitch.mp4") if pitch else (FPS, folder / "things.mp4")
    if pitch:
        drawn = (Scene(seed=3).draw(camera, at) for camera, at in sweep(PITCH_FRAMES, PITCH_FPS, PITCH_SIZE))
    else:
        drawn = (scene(number) for number in range(FRAMES))
    spec = ClipSpec("mp4", Fraction(1, TICKS), rate=Fraction(fps))
    write_clip(path, spec, ((rgb, TICKS + n * TICKS // fps) for n, rgb in enumerate(drawn)))
    return path


def wanted(row: Row, path: Path, open_model: OpenModel, folder: Path) -> list[dict[str, Any]]:
    """What `lockstep run` says, of pictures as the log carries them."""
    options = RunOptions(
        (f"clip={path}",),
        (row.model,),
        row.track,
        results=folder / "r.jsonl",
        transport="jpeg",
        reid=row.reid,
        workers=1,
    )
    assert run_streams(options, open_model).ok
    return over.clips.lines(folder / "r.jsonl")


def through(
    row: Row, path: Path, open_model: OpenModel, log: RecordLog, names: Names
) -> tuple[list[dict[str, Any]], Balance]:
    stream = StreamMessage("clip", str(path), (row.model,), mixed=True)
    found, balances = over.through_the_log(log, names, [stream], open_model, row.track, row.reid)
    return found["clip"], balances["clip"]


def misplaced(documents: list[dict[str, Any]]) -> int:
    """Boxes that are not where their picture's PTS says, by more than the codec's blur."""
    count = 0
    for document in documents:
        moment = document["pts_ns"] - documents[0]["pts_ns"]
        for name, box in zip(LANES, document["detections"], strict=True):
            x, y = corner(name, moment)
            count += max(abs(box["xyxy"][0] - x), abs(box["xyxy"][1] - y)) > 1.5
    return count


@pytest.mark.needs("kafka")
@pytest.mark.parametrize("name", ROWS)
def test_a_workload_over_a_real_broker_is_what_run_says(
    request: pytest.FixtureRequest, name: str, open_model: OpenModel, tmp_path: Path
) -> None:
    row = ROWS[name]
    path = clip(tmp_path, row.pitch)
    frames = PITCH_FRAMES if row.pitch else FRAMES
    expected = wanted(row, path, open_model, tmp_path)
    found, balance = through(row, path, open_model, *over._kafka(request))
    assert len(expected) == frames and over.same(found, expected)
    assert balance.holds and balance.in_flight == 0 and balance.results == balance.accepted == frames
    if not row.pitch:
        assert misplaced(found) == 0
    if row.track:
        ids = [tuple(box.get("track_id", -1) for box in document["detections"]) for document in found]
        assert len(set(ids[-1])) == len(LANES) and min(ids[-1]) > 0 and ids[-1] == ids[FRAMES // 2], ids
    if name == "pipeline_with_gallery":
        assert [box["who"]["status"] for box in found[-1]["detections"]] == ["known", "known", "unknown"]
    if name == "pipeline_with_appearance":
        by_reid = wanted(ROWS["deepsort"], path, open_model, tmp_path)
        assert [d["detections"] for d in found] == [d["detections"] for d in by_reid], "and no vector in any record"
    if name == "player_map":
        places = [
            document["detections"][0]["pitch"]["x_m"] for document in found if document["detections"][0].get("pitch")
        ]
        assert len(places) >= PITCH_FRAMES - 1 and np.ptp(places) > 5, "the camera moved, so did what it looks at"


def test_seeded_defect_results_of_the_frame_before_are_caught(open_model: OpenModel, tmp_path: Path) -> None:
    """A model that answers with what it saw last: every account balances, only the places are wrong."""
    path, row = clip(tmp_path, pitch=False), ROWS["bytetrack"]
    expected = wanted(row, path, open_model, tmp_path)
    held = [Detections.empty()]

    def late(pixels: PixelArray, parameters: Mapping[str, Any]) -> Detections:
        held.append(blobs(pixels, parameters))
        return held[-2] if len(held) > 2 else held[-1]

    stale = FakeModel("blobs", "detection", late, ("thing",))
    found, balance = through(row, path, lambda name: seeing(stale), *over._memory())
    assert misplaced(found) > FRAMES and not over.same(found, expected)
    assert balance.holds
