"""Face chips: landmarks land on the template, whatever the face's turn and size; never mirrored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.preprocess.chips import TEMPLATES, box_chip, chip, similarity

ARCFACE, DLIB = TEMPLATES["arcface_112"], TEMPLATES["dlib_150"]


def moved_by(points: np.ndarray, turn: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    c, s = np.cos(turn) * scale, np.sin(turn) * scale
    return points @ np.array([[c, -s], [s, c]]).T + shift


@settings(max_examples=50, deadline=None)
@given(st.floats(-3.1, 3.1), st.floats(0.2, 9.0), st.floats(-500, 500), st.floats(-500, 500))
def test_a_similarity_is_found_back(turn: float, scale: float, x: float, y: float) -> None:
    source = DLIB.array()
    matrix = similarity(source, moved_by(source, turn, scale, (x, y)))
    assert np.allclose(source @ matrix[:, :2].T + matrix[:, 2], moved_by(source, turn, scale, (x, y)), atol=1e-6)


def test_a_mirrored_face_is_not_mirrored_back() -> None:
    mirrored = DLIB.array() * [-1, 1]
    assert np.linalg.det(similarity(mirrored, DLIB.array())[:, :2]) > 0


def test_points_in_one_place_are_refused() -> None:
    with pytest.raises(ValueError, match="different points"):
        similarity(np.ones((5, 2)), DLIB.array())


@pytest.mark.parametrize("template", [ARCFACE, DLIB])
@pytest.mark.parametrize("scale", [0.7, 1.0, 3.3, 7.4])
def test_marks_at_the_landmarks_are_seen_where_the_template_has_them(template, scale: float) -> None:  # type: ignore[no-untyped-def]
    points = moved_by(template.array(), 0.3, scale, (120.0, 90.0))
    rgb = np.zeros((1400, 1400, 3), np.uint8)
    radius = max(2, round(2 * scale))
    for number, (x, y) in enumerate(points.round().astype(int)):
        rgb[y - radius : y + radius + 1, x - radius : x + radius + 1] = 50 + 40 * number
    found = chip(rgb, points.astype(np.float32), template)
    assert found.shape == (template.size, template.size, 3)
    for number, (x, y) in enumerate(template.array().round().astype(int)):
        assert abs(int(found[y, x, 0]) - (50 + 40 * number)) <= 25


def test_dlibs_eyes_are_where_its_own_chips_have_them() -> None:
    """A 150 pixel chip of dlib with padding 0.25 has its eyes a third of the way down, 53 pixels apart."""
    left, right = DLIB.array()[:2]
    assert left[1] == right[1] == pytest.approx(46.6, abs=0.1) and right[0] - left[0] == pytest.approx(52.9, abs=0.1)


def test_a_box_gives_a_square_chip_with_a_margin() -> None:
    rgb = np.zeros((200, 300, 3), np.uint8)
    rgb[50:110, 100:160] = 255
    found = box_chip(rgb, np.array([100, 50, 160, 110], np.float32), DLIB)
    share = float((found[:, :, 0] > 127).mean())
    assert share == pytest.approx(1 / 1.3**2, abs=0.02) and found[75, 75, 0] == 255
    with pytest.raises(ValueError, match="area"):
        box_chip(rgb, np.array([10, 10, 10, 10], np.float32), DLIB)
