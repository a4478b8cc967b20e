"""Scores of maps, and the graf pair against its true matrix."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from evaluation.metrics.homography import corner_error, score_maps
from models.importers.graf_pair import graf_pair
from serving.config import load_settings
from serving.pitch.motion import between
from serving.testing.pitch_scene import Camera

SIZE = (320, 180)


def test_figures_of_a_hand_made_case() -> None:
    true = Camera(size=SIZE).to_metres
    metre = np.array([[1, 0, 1.0], [0, 1, 0], [0, 0, 1]]) @ true
    three = np.array([[1, 0, 3.0], [0, 1, 0], [0, 0, 1]]) @ true
    scores = score_maps([true, metre, three, None, true], [true, true, true, true, None], SIZE)
    assert (scores.frames, scores.known, scores.wrong) == (5, 0.8, 0.4)
    assert scores.median_m == pytest.approx(3.0)
    assert scores.worst_m == np.inf


def test_corner_error_is_the_mean_distance() -> None:
    shift = np.array([[1, 0, 3.0], [0, 1, 4.0], [0, 0, 1]])
    assert corner_error(shift, np.eye(3), SIZE) == pytest.approx(5.0)


@pytest.mark.needs("opencv-doc")
def test_the_graf_pair_is_found_within_seven_pixels_of_its_true_matrix() -> None:
    first, second, true = graf_pair(load_settings().settings.cache_dir, lambda _: None)
    one, other = (cv2.imread(str(path)) for path in (first, second))
    assert one is not None and other is not None
    one, other = (picture.astype(np.uint8) for picture in (one, other))
    found = between(one, other)
    assert found is not None
    assert found[1] > 200
    assert corner_error(found[0], true, (one.shape[1], one.shape[0])) < 7.0
    back = between(other, one)
    assert back is not None
    assert corner_error(back[0], true, (one.shape[1], one.shape[0])) > 50  # the inverted matrix is no answer
