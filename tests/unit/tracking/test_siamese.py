"""The arithmetic of SiamFC: correlation, box, scale, loss and finding again, by the picture's time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from target_scenes import FRAME_NS, RULES, Scene, followed_boxes, patches, scene

from evaluation.metrics.single_object_tracking import FollowScores, score_following
from serving.tracking import siamese
from serving.tracking.siamese import TargetState, begin, cell_weights, follow, likeness_map, score_of
from serving.types import FloatArray, PixelArray


def scores_of(made: Scene) -> FollowScores:
    found = [t.xyxy if t.state is TargetState.TRACKING else None for t in followed_boxes(made)]
    return score_following(made.boxes, found)


def test_the_score_map_is_the_weighted_correlation_place_by_place() -> None:
    rng = np.random.default_rng(3)
    template, found = rng.normal(size=(5, 8, 8)).astype(np.float32), rng.normal(size=(5, 24, 24)).astype(np.float32)
    scores = score_of(likeness_map(template, found), RULES)
    assert scores.shape == (17, 17)
    for row, column in ((0, 0), (3, 11), (16, 16)):
        likeness = (template * cell_weights(8) * found[:, row : row + 8, column : column + 8]).sum()
        expected = 1 / (1 + np.exp(-RULES.sharpness * (likeness - RULES.middle)))
        assert scores[row, column] == pytest.approx(expected, abs=1e-5)


@pytest.mark.needs("torch")
def test_the_middle_of_a_search_crops_map_is_the_map_of_the_template_crop() -> None:
    """Why one graph of one size is enough: no layer pads, so both see the same pixels."""
    import torch

    from models.architectures.siamfc import SEARCH, STRIDE, TEMPLATE, siamfc

    net = siamfc().eval()
    picture = torch.randn(1, 3, SEARCH, SEARCH)
    edge = (SEARCH - TEMPLATE) // 2
    with torch.no_grad():
        whole, part = net(picture), net(picture[:, :, edge : edge + TEMPLATE, edge : edge + TEMPLATE])
    assert whole.shape[2:] == (24, 24) and part.shape[2:] == (RULES.cells, RULES.cells) and edge % STRIDE == 0
    first = (24 - RULES.cells) // 2
    assert torch.allclose(whole[:, :, first : first + 8, first : first + 8], part, atol=1e-5)


def test_a_moving_object_is_followed_and_its_growth_seen() -> None:
    assert scores_of(scene()).auc > 0.8
    growing = scene(grow=0.012)
    found = followed_boxes(growing)
    assert scores_of(growing).auc > 0.75
    real = growing.boxes[-1]
    assert real is not None and found[-1].size[0] == pytest.approx(real[2] - real[0], rel=0.2)


def test_a_hidden_object_is_lost_and_found_again() -> None:
    made = scene(hidden=range(25, 35))
    found = followed_boxes(made)
    states = [target.state for target in found]
    assert set(states[26:35]) == {TargetState.LOST} and set(states[40:]) == {TargetState.TRACKING}
    assert scores_of(made).false <= 0.1
    last = found[24].xyxy
    assert found[30].xyxy == pytest.approx(last, abs=6), "while it is lost, the box is where it was seen last"


def test_elapsed_time_is_that_of_the_pictures() -> None:
    """Every sixth picture, at their own times: the object moves 24 pixels from one to the next. At times that say it
    moved in 40 ms its speed is taken for six times what it is, and its scale must not change six times as fast."""
    made = scene(count=90, speed=4.0)
    few = Scene(made.frames[::6], made.boxes[::6])
    found = followed_boxes(few, [6 * FRAME_NS * n for n in range(len(few.frames))])
    assert found[-1].velocity[0] == pytest.approx(100, rel=0.2), "pixels a second"
    rushed = followed_boxes(few)
    assert rushed[-1].velocity[0] > 400


def test_a_step_that_failed_can_be_made_again() -> None:
    made = scene(count=3)
    assert made.boxes[0] is not None
    first = begin(made.frames[0], made.boxes[0], 0, patches, RULES)

    def broken(crops: Sequence[PixelArray]) -> FloatArray:
        raise OSError

    with pytest.raises(OSError):
        follow(first, made.frames[1], FRAME_NS, broken, RULES)
    once, again = (follow(first, made.frames[1], FRAME_NS, patches, RULES) for _ in range(2))
    assert once.xyxy == again.xyxy and np.array_equal(once.template, again.template)


def test_a_target_at_the_edge_and_one_outside_stay_numbers() -> None:
    made = scene(count=70, speed=8.0)  # it leaves the picture at the right
    found = followed_boxes(made)
    assert all(np.isfinite(target.xyxy).all() for target in found)
    assert found[-1].state is TargetState.LOST


def _off_by_a_stride(monkeypatch: pytest.MonkeyPatch) -> None:
    part = siamese._part
    monkeypatch.setattr(siamese, "_part", lambda found, row, column, rules: part(found, row, max(0, column - 1), rules))


def _scale_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A larger square is taken where a smaller one was meant."""
    side, crop, base = siamese._search_side, siamese._crop, [0.0]

    def remember(size: siamese.Point, rules: siamese.SiameseRules) -> float:
        base[0] = side(size, rules)
        return base[0]

    monkeypatch.setattr(siamese, "_search_side", remember)
    monkeypatch.setattr(
        siamese, "_crop", lambda picture, centre, wide, rules: crop(picture, centre, base[0] ** 2 / wide, rules)
    )


@pytest.mark.parametrize("defect", [_off_by_a_stride, _scale_exchanged])
def test_seeded_defects_are_caught(
    defect: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under either the object is still found somehow; the curves tell."""
    made = scene(grow=0.012)
    sound = scores_of(made)
    defect(monkeypatch)
    assert scores_of(made).auc < sound.auc - 0.1
