"""The map of one picture against the exact one, and pictures that have none."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from evaluation.metrics.homography import field_error, score_maps
from serving.pitch import Pitch, find_pitch
from serving.pitch.model import metres_of, normalised, project, to_pixels
from serving.testing.pitch_scene import Camera, Scene
from serving.types import PixelArray

SIZE = (960, 540)
PENALTY = Camera(look=(85, 40), focal=1.6, size=SIZE)
MIDDLE = Camera(place=(50, 100, 16), look=(52, 30), focal=1.3, size=SIZE)


@pytest.mark.parametrize(
    ("camera", "scene"),
    [
        (PENALTY, Scene(seed=1)),
        (MIDDLE, Scene(seed=2, noise=2)),
        (Camera(look=(20, 36), focal=1.3, size=SIZE), Scene(seed=3, blur=1.0, shade=0.35)),
    ],
    ids=["penalty area", "centre circle", "shadow and blur"],
)
def test_a_view_of_the_pitch_is_mapped_within_thirty_centimetres(camera: Camera, scene: Scene) -> None:
    found = find_pitch(scene.draw(camera))
    assert found.to_metres is not None, found.reason
    assert field_error(found.to_metres, camera.to_metres, camera.size) < 0.3
    assert found.error < 1.0
    assert found.inliers > 50


def test_the_drawn_truth_is_exact() -> None:
    feet = Scene().places()
    boxes = Scene().boxes(PENALTY)
    foot = np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 3]], axis=1)
    assert np.nanmax(np.abs(metres_of(PENALTY.to_metres, foot) - feet)) < 1e-6
    assert np.nanmax(np.abs(project(to_pixels(PENALTY.to_metres), feet) - foot)) < 1e-6


def _court() -> PixelArray:
    """A tennis court: white lines on green that are no pitch."""
    scene, camera = Scene(players=2, paint=0.0), Camera(place=(52, 75, 9), look=(52, 52), focal=1.0, size=SIZE)
    picture = scene.draw(camera)
    to_picture = to_pixels(camera.to_metres)
    long, wide, in_, serve = 23.77, 10.97, 1.37, 5.48
    lines = [(0.0, y, long, y) for y in (0.0, in_, wide - in_, wide)] + [(x, 0.0, x, wide) for x in (0.0, long)]
    lines += [(x, in_, x, wide - in_) for x in (serve, long - serve)] + [(serve, wide / 2, long - serve, wide / 2)]
    for x1, y1, x2, y2 in lines:
        ends = project(to_picture, np.array([[x1 + 40, y1 + 50], [x2 + 40, y2 + 50]]))
        cv2.polylines(picture, [np.round(ends).astype(np.int32)], False, (240, 240, 240), 3, cv2.LINE_AA)
    return picture


@pytest.mark.parametrize(
    ("picture", "reasons"),
    [
        (np.random.default_rng(0).integers(0, 255, (270, 480, 3), np.uint8), {"no_grass"}),
        (Scene(paint=0.0).draw(replace(MIDDLE, size=(480, 270))), {"few_lines", "no_fit"}),
        (_court(), {"few_lines", "no_fit", "ambiguous"}),
    ],
    ids=["noise", "a meadow with players", "a tennis court"],
)
def test_what_is_no_pitch_is_unknown_with_a_reason(picture: PixelArray, reasons: set[str]) -> None:
    found = find_pitch(picture)
    assert not found.known
    assert found.reason in reasons


@pytest.mark.parametrize("defect", ["length and width exchanged", "inverted", "mirrored"])
def test_a_defect_in_the_map_is_seen_by_the_score(defect: str) -> None:
    true = PENALTY.to_metres
    wrong = {
        "length and width exchanged": np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1.0]]) @ true,
        "inverted": normalised(np.linalg.inv(true)),
        "mirrored": np.array([[-1, 0, 105], [0, 1, 0], [0, 0, 1.0]]) @ true,
    }[defect]
    assert score_maps([true], [true], SIZE).wrong == 0
    assert score_maps([wrong], [true], SIZE).wrong == 1


def test_a_pitch_of_another_size_does_not_get_this_ones_map() -> None:
    """Length and width exchanged in the settings: the markings do not fit, and nothing is told."""
    assert not find_pitch(Scene(seed=1).draw(PENALTY), Pitch(68, 105)).known


def test_a_map_of_the_picture_before_saves_the_search_and_does_not_change_the_answer() -> None:
    picture = Scene(seed=1).draw(PENALTY)
    before = replace(PENALTY, look=(84.6, 40.1)).to_metres
    found = find_pitch(picture, near=before)
    assert found.to_metres is not None
    assert field_error(found.to_metres, PENALTY.to_metres, SIZE) < 0.3
    lost = find_pitch(picture, near=replace(PENALTY, look=(20, 40)).to_metres)
    assert lost.to_metres is not None
    assert field_error(lost.to_metres, PENALTY.to_metres, SIZE) < 0.3
