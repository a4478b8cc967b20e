"""Tiles of a large picture: equal to the model where one tile is the picture, an object on a border found once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_support import FakeModel, ask, models, pipeline

from serving.errors import EngineFailed, ServingError, SpecInvalid
from serving.pipelines.tiles import TileOptions, tiles_of
from serving.types import Detections, InferRequest, PixelArray

SEEN = 300  # the detector shrinks wider pictures to this side: small blobs vanish


def blobs(pixels: PixelArray, parameters: Mapping[str, Any]) -> Detections:
    """A box for each bright blob, surest where it is largest; of a large picture only what shrinking leaves."""
    shrink = max(1.0, max(pixels.shape[:2]) / SEEN)
    small = cv2.resize(pixels, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_NEAREST)
    _, _, stats, _ = cv2.connectedComponentsWithStats((small[:, :, 0] > 100).astype(np.uint8))
    found = [s for s in stats[1:].tolist() if s[2] >= 5 and s[3] >= 5]
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h, _ in found], np.float32).reshape(-1, 4) * shrink
    sure = np.array([0.5 + min(0.4, area / 5000) for *_, area in found], np.float32)
    order = np.argsort(-sure, kind="stable")
    return Detections(boxes[order].astype(np.float32), sure[order], np.zeros(len(found), np.int64))


def tiled(folder: Path, tile: Mapping[str, Any] | None, detector: FakeModel | None = None) -> tuple[Any, FakeModel]:
    detector = detector or FakeModel("detector", "detection", blobs, ("wide", "tall"))
    options = {} if tile is None else {"tile": dict(tile)}
    steps = [{"name": "boxes", "do": "infer", "model": "detector", "options": options}]
    return pipeline(folder, models(detector=detector), steps, {"detections": "boxes"}), detector


def scene(*boxes: tuple[int, int, int, int], side: int = 1000) -> PixelArray:
    pixels = np.zeros((side, side, 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        pixels[y1:y2, x1:x2] = 255
    return pixels


TILE = {"width": 300, "height": 300, "overlap": 0.25}


def test_a_picture_that_is_a_tile_has_the_very_answer_of_the_model(tmp_path: Path) -> None:
    picture = scene((10, 10, 40, 40), (100, 150, 180, 200), side=300)
    with_tiles, detector = tiled(tmp_path, TILE)
    plain, _ = tiled(tmp_path, None)
    assert ask(with_tiles, picture)[0]["detections"] == ask(plain, picture)[0]["detections"]
    assert detector.calls == [1]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(x=st.integers(0, 930), y=st.integers(0, 930), width=st.integers(20, 70), height=st.integers(20, 70))
def test_an_object_anywhere_is_found_once_and_whole(
    x: int, y: int, width: int, height: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model, _ = tiled(tmp_path_factory.getbasetemp(), TILE)
    box = (x, y, min(1000, x + width), min(1000, y + height))
    rows = ask(model, scene(box))[0]["detections"]
    assert len(rows) == 1
    assert np.abs(np.array(rows[0]["xyxy"]) - box).max() <= 4, "of the tile, or of the picture shrunk to a third"


def test_small_large_and_neighbouring_objects(tmp_path: Path) -> None:
    small, large = (500, 500, 510, 510), (100, 100, 800, 420)
    beside = [(900, 900, 930, 960), (932, 900, 962, 960)]
    picture = scene(small, large, *beside)
    plain, _ = tiled(tmp_path, None)
    assert len(ask(plain, picture)[0]["detections"]) < 4, "shrunk, the small one is gone"
    model, detector = tiled(tmp_path, TILE)
    rows = ask(model, picture)[0]["detections"]
    found = sorted([round(v) for v in row["xyxy"]] for row in rows)
    assert len(found) == 4
    assert np.abs(np.array(found) - np.array(sorted([small, large, *beside]))).max() <= 4
    assert [row["confidence"] for row in rows] == sorted((row["confidence"] for row in rows), reverse=True)
    assert sum(detector.calls) == 1 + 25 and max(detector.calls) <= 4, "in the model's own batches"
    assert len(ask(model, picture, max_detections=2)[0]["detections"]) == 2
    assert ask(model, scene())[0]["detections"] == []


def test_without_joining_a_border_cuts_an_object_in_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.pipelines.tiles import Tile

    model, _ = tiled(tmp_path, {**TILE, "same_object": 1.0})
    monkeypatch.setattr(Tile, "cut", lambda self, xyxy: np.zeros(len(xyxy), bool))
    assert len(ask(model, scene((240, 240, 300, 300)))[0]["detections"]) > 1


@pytest.mark.parametrize(("side", "most"), [(1000, 64), (4000, 64), (9000, 16), (301, 1)])
def test_tiles_cover_the_picture_and_are_bounded(side: int, most: int) -> None:
    options = TileOptions(width=300, height=300, overlap=0.25, most=most)
    picture = np.zeros((side, side - 50, 3), np.uint8)
    tiles = tiles_of(picture, options)
    assert len(tiles) <= most + 1 and tiles[0].pixels is picture
    seen = np.zeros(picture.shape[:2], bool)
    for tile in tiles[1:]:
        (x, y), (height, width) = tile.offset, tile.pixels.shape[:2]
        seen[y : y + height, x : x + width] = True
        assert tile.cuts == (x > 0, y > 0, x + width < side - 50, y + height < side)
    assert seen.all() or len(tiles) == 1


def test_an_error_of_a_tile_is_the_pictures_and_what_cannot_be_tiled_is_refused(tmp_path: Path) -> None:
    def fails(pixels: PixelArray, parameters: Mapping[str, Any]) -> Detections | ServingError:
        return blobs(pixels, parameters) if pixels.shape[0] > 300 else EngineFailed("no")

    model, _ = tiled(tmp_path, TILE, FakeModel("detector", "detection", fails, ("wide", "tall")))
    (answer,) = model.infer([InferRequest(frame=scene((5, 5, 20, 20)))])
    assert isinstance(answer, EngineFailed)
    ruled = FakeModel("detector", "detection", blobs, rules={"default": [{"name": "big", "min_area": 9}]})
    with pytest.raises(SpecInvalid, match="the rules of detector would be asked about tiles"):
        tiled(tmp_path, TILE, ruled)
    with pytest.raises(SpecInvalid, match="overlap"):
        tiled(tmp_path, {**TILE, "overlap": 0.9})
    steps = [{"name": "look", "do": "infer", "model": "embedder", "options": {"tile": TILE}}]
    with pytest.raises(SpecInvalid, match=r"options.tile: embedder gives no boxes"):
        pipeline(tmp_path, models(), steps, {"fields": ["look"]})
