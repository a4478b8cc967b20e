"""draw: what is on the picture is what the boxes say, and the picture handed in stays as it was."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import draw
from serving.frames import Origin
from serving.types import Classification, Detections


def _boxes(xyxy: list[list[float]], tracks: list[int] | None = None) -> Detections:
    n = len(xyxy)
    return Detections(
        np.array(xyxy, np.float32).reshape(n, 4),
        np.linspace(0.9, 0.5, n, dtype=np.float32),
        np.arange(n),
        None if tracks is None else np.array(tracks),
    )


def _black(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def _share(line: np.ndarray, colour: draw.Colour) -> float:
    return float((line == colour).all(axis=-1).mean())


def test_the_source_is_copied() -> None:
    frame = _black(200, 300)
    frame.setflags(write=False)
    picture = draw.annotate(frame, _boxes([[20, 60, 200, 180]]), labels=("person",), banner="hello")
    assert frame.max() == 0 and picture.max() > 0 and picture.shape == frame.shape and picture.flags.c_contiguous


def test_nothing_to_draw_changes_nothing() -> None:
    frame = np.random.default_rng(1).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    assert np.array_equal(draw.annotate(frame, Detections.empty()), frame)


def test_measured_is_solid_interpolated_dashed_extrapolated_dotted() -> None:
    canvas = _black(600, 600)
    boxes = _boxes([[50, 450, 550, 550]] * 3, [1, 1, 1])
    shares = []
    for how in Origin:
        picture = draw.annotate(canvas, boxes, origin=np.full(3, how.value, np.uint8))
        shares.append(_share(picture[550, 52:548], draw.colour_of(1)))
    assert shares[Origin.MEASURED.value] == 1.0
    assert 0.5 < shares[Origin.INTERPOLATED.value] < 0.7
    assert 0.2 < shares[Origin.EXTRAPOLATED.value] < 0.45


def test_corners_are_where_the_box_is() -> None:
    picture = draw.annotate(_black(90, 80), _boxes([[10, 20, 60, 70]], [3]))
    lit = (picture == draw.colour_of(3)).all(axis=-1)
    assert lit[20, 10:61].all() and lit[70, 10:61].all() and lit[20:71, 10].all() and lit[20:71, 60].all()
    assert not lit[:, :9].any() and not lit[72:].any()


def test_origin_is_one_a_box() -> None:
    with pytest.raises(ValueError, match="expected 1 values, one a box, got 2"):
        draw.annotate(_black(9, 9), _boxes([[1, 1, 5, 5]]), origin=np.zeros(2, np.uint8))


def test_a_box_that_is_not_finite_is_left_out() -> None:
    nan, inf = float("nan"), float("inf")
    boxes = _boxes([[nan, 1, 5, 5], [1, 1, inf, 5], [10, 20, 60, 70]], [1, 2, 3])
    trails = draw.Trails()
    trails.update(0, boxes)
    alone = Detections(boxes.xyxy[2:], boxes.confidence[2:], boxes.class_id[2:], np.array([3]))
    assert set(trails.lines()) == {3}
    assert np.array_equal(draw.annotate(_black(90, 80), boxes), draw.annotate(_black(90, 80), alone))


def test_colours_are_stable_bright_and_apart() -> None:
    colours = [draw.colour_of(i) for i in range(60)]
    assert colours == [draw.colour_of(i) for i in range(60)] and len(set(colours)) == 60
    assert all(max(c) >= 190 for c in colours)
    for one, two in itertools.pairwise(colours):
        assert sum(abs(a - b) for a, b in zip(one, two, strict=True)) > 120


def test_the_track_gives_the_colour_and_without_one_the_class() -> None:
    boxes = _boxes([[0, 0, 1, 1], [0, 0, 1, 1]], [7, -1])
    assert draw.colour_of_box(boxes, 0) == draw.colour_of(7)
    assert draw.colour_of_box(boxes, 1) == draw.colour_of(1, of_track=False)
    assert draw.colour_of_box(_boxes([[0, 0, 1, 1]]), 0) == draw.colour_of(0, of_track=False)


def test_labels_name_track_class_and_confidence() -> None:
    boxes = _boxes([[0, 0, 1, 1], [0, 0, 1, 1]], [7, -1])
    assert draw.label_of(boxes, 0, ("person",)) == "#7 person 0.90"
    assert draw.label_of(boxes, 1, ("person",)) == "class 1 0.50"


def test_a_label_at_any_edge_lies_inside_and_below_the_banner() -> None:
    for corner in ((-50, -50), (0, 0), (390, 0), (390, 299), (0, 299)):
        canvas = _black(300, 400)
        draw.draw_label(canvas, corner, "#7 person 0.90", (0, 255, 0), below=40)
        plate = (canvas == (0, 255, 0)).all(axis=-1)
        rows, columns = np.nonzero(plate)
        assert rows.min() >= 40 and columns.max() - columns.min() > 80 and rows.max() - rows.min() > 8


def test_a_label_wider_than_the_picture_keeps_the_confidence() -> None:
    assert draw._fitted("#7 a very long name indeed 0.90", 40, 0.5) == "0.90"
    assert draw._fitted("0.90", 3, 0.5) == ""


def test_no_text_on_a_thumbnail() -> None:
    canvas = _black(32, 32)
    draw.draw_label(canvas, (0, 0), "person 0.9", (0, 255, 0))
    assert draw.draw_banner(canvas, "hello") == 0 and canvas.max() == 0


def test_text_grows_with_the_picture_and_is_never_under_nine_pixels() -> None:
    assert draw.text_height(_black(40, 40)) == 9.0
    assert draw.text_height(_black(576, 768)) < draw.text_height(_black(3000, 4000)) <= 96
    assert (
        draw.line_width(_black(40, 40)) == 1 < draw.line_width(_black(720, 1280)) < draw.line_width(_black(3000, 4000))
    )


def test_the_banner_wraps_and_takes_at_most_half() -> None:
    canvas = np.full((200, 160, 3), 200, np.uint8)
    rows = draw.draw_banner(canvas, "frames 312 = 300 results + 12 dropped\n" * 9)
    assert 20 < rows <= 103
    assert (canvas[rows:] == 200).all() and np.median(canvas[:rows]) == 60 and canvas[:rows].max() > 200


def test_classes_are_listed_best_first() -> None:
    found = Classification(np.array([1, 0]), np.array([0.8, 0.1], np.float32))
    one = draw.annotate_classes(_black(120, 300), found, ("cat", "dog"), top=1)
    two = draw.annotate_classes(_black(120, 300), found, ("cat", "dog"))
    assert (one > 0).sum() < (two > 0).sum()
    assert np.array_equal(np.nonzero(one)[0].min(), np.nonzero(two)[0].min())


def test_trails_are_bounded_in_time_tracks_and_points() -> None:
    trails = draw.Trails(length_ns=1000, max_tracks=3, max_points=5)
    for pts in range(0, 4000, 100):
        trails.update(pts, _boxes([[0, 0, 10, pts / 100]], [1]))
    assert len(trails.lines()[1]) == 5 and trails.lines()[1][-1] == (5.0, 39.0)
    for track in range(10, 20):
        trails.update(4000, _boxes([[0, 0, 10, 10]], [track]))
    assert set(trails.lines()) == {17, 18, 19}
    trails.update(6000, Detections.empty())
    assert trails.lines() == {}


def test_trails_are_drawn_in_the_colour_of_their_track_and_cleared() -> None:
    trails = draw.Trails()
    for step in range(5):
        trails.update(step, _boxes([[20 * step, 10, 20 * step + 20, 50]], [4]))
    picture = draw.annotate(_black(100, 200), Detections.empty(), trails=trails)
    # Smoothed lines are a little darker at their edges.
    assert np.abs(picture[50, 20:80].astype(int) - draw.colour_of(4)).max() < 60
    trails.clear()
    assert draw.annotate(_black(100, 200), Detections.empty(), trails=trails).max() == 0


@settings(deadline=None, max_examples=80)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    values=st.lists(st.floats(-1e5, 1e5, width=32), min_size=4, max_size=4),
    how=st.sampled_from(list(Origin)),
)
def test_any_box_on_any_picture(height: int, width: int, values: list[float], how: Origin) -> None:
    boxes = _boxes([values], [5])
    trails = draw.Trails()
    trails.update(0, boxes)
    trails.update(1, boxes)
    picture = draw.annotate(
        _black(height, width), boxes, labels=("x",), origin=np.array([how.value], np.uint8), trails=trails, banner="a b"
    )
    assert picture.shape == (height, width, 3)
