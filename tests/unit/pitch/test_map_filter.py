"""The map over a video: held over gaps by the picture's motion, a jump waits, a new timeline starts with nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evaluation.metrics.homography import field_error
from serving.pitch import FieldMap
from serving.pitch.model import Matrix
from serving.pitch.track import HOLD_NS, MapFilter
from serving.testing.pitch_scene import Camera, Scene
from serving.types import PixelArray

SIZE, MS = (480, 270), 1_000_000
CAMERA = Camera(look=(80, 38), focal=1.6, size=SIZE)
UNKNOWN = FieldMap(None, reason="no_fit")
BLANK: PixelArray = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)


def turned(by: float) -> Camera:
    return replace(CAMERA, look=(80 + by, 38))


def told(matrix: Matrix) -> FieldMap:
    return FieldMap(matrix, 0.4, 120, 0.95)


def test_noise_of_single_maps_is_less_by_where_the_camera_was_going() -> None:
    rng, maps, raw, kept = np.random.default_rng(0), MapFilter(), [], []
    for number in range(40):
        true = turned(0.2 * number).to_metres
        noisy = true @ np.array([[1, 0, rng.normal(0, 1.5)], [0, 1, rng.normal(0, 1.5)], [0, 0, 1]])
        found, held = maps.update(told(noisy), number * 40 * MS, BLANK)
        assert held == 0 and found.to_metres is not None
        raw.append(field_error(noisy, true, SIZE))
        kept.append(field_error(found.to_metres, true, SIZE))
    assert np.mean(kept[8:]) < 0.85 * np.mean(raw[8:])


def test_a_camera_that_starts_to_turn_is_not_lagged_behind() -> None:
    maps = MapFilter()
    for number in range(12):
        true = turned(0.15 * number**2).to_metres
        found, _ = maps.update(told(true), number * 160 * MS, BLANK)
        assert found.to_metres is not None
        assert field_error(found.to_metres, true, SIZE) < 0.35
    assert maps._turn.any()


def test_a_gap_is_bridged_by_the_pictures_motion_and_ends_as_unknown() -> None:
    scene, maps = Scene(seed=4, noise=1.0, paint=0.9), MapFilter()
    cameras = [turned(0.5 * number) for number in range(4)]
    pictures = [scene.draw(camera) for camera in cameras]
    maps.update(told(cameras[0].to_metres), 0, pictures[0])
    for number in (1, 2, 3):
        found, held = maps.update(UNKNOWN, number * 40 * MS, pictures[number])
        assert held == number * 40 * MS
        assert found.to_metres is not None
        assert field_error(found.to_metres, cameras[number].to_metres, SIZE) < 1.0
    late, held = maps.update(UNKNOWN, HOLD_NS + 1, pictures[3])
    assert (late.known, held) == (False, 0)


def test_a_cut_is_not_bridged() -> None:
    maps = MapFilter()
    maps.update(told(CAMERA.to_metres), 0, Scene().draw(CAMERA))
    found, _ = maps.update(UNKNOWN, 40 * MS, np.random.default_rng(1).integers(0, 255, (270, 480, 3), np.uint8))
    assert not found.known


def test_one_wrong_map_is_not_told_and_a_cut_is_after_two() -> None:
    maps, other = MapFilter(), replace(CAMERA, look=(20, 38)).to_metres
    maps.update(told(CAMERA.to_metres), 0, BLANK)
    first, _ = maps.update(told(other), 40 * MS, BLANK)
    assert first.to_metres is None and first.reason == "jump"
    again, _ = maps.update(told(other), 80 * MS, BLANK)
    assert again.to_metres is not None
    assert field_error(again.to_metres, other, SIZE) < 0.01


def test_nothing_is_expected_of_a_new_timeline() -> None:
    maps = MapFilter()
    assert maps.ahead(0) is None
    maps.update(told(CAMERA.to_metres), 0, BLANK)
    assert maps.ahead(40 * MS) is not None
    assert maps.ahead(HOLD_NS + 1) is None


@pytest.mark.parametrize("step_ms", [20, 40, 200])
def test_the_expected_map_follows_a_turning_camera_by_pts(step_ms: int) -> None:
    maps = MapFilter()
    for number in range(12):
        maps.update(told(turned(number / 2).to_metres), number * step_ms * MS, BLANK)
    for part in (0.5, 1.0):
        expected = maps.ahead(round((11 + part) * step_ms * MS))
        assert expected is not None
        assert field_error(expected, turned((11 + part) / 2).to_metres, SIZE) < 0.15
    still = maps.ahead(11 * step_ms * MS)
    assert still is not None
    assert field_error(still, turned(6).to_metres, SIZE) > 0.25  # the last map alone would not do
