"""Where the picture lands: shapes, offsets and the way back, for any size and rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import ImageTooLarge, ImageUnsupported
from serving.preprocess.geometry import MAX_RESIZED_PIXELS, place, plane_of
from serving.spec import PreprocessSpec
from serving.types import ImageSize

side = st.integers(1, 4000)
rules = st.sampled_from(
    ["none", "stretch", "pad_square", "letterbox", "shortest_side_crop", "center_crop", "min_max_side"]
)


@st.composite
def specs(draw: st.DrawFn) -> PreprocessSpec:
    rule = draw(rules)
    free = rule in ("none", "min_max_side")
    plane = {} if free else {"width": draw(st.integers(1, 900)), "height": draw(st.integers(1, 900))}
    return PreprocessSpec(
        **plane,
        resize=rule,
        shortest_side=draw(st.integers(1, 600)) if rule == "shortest_side_crop" else None,
        min_side=draw(st.integers(1, 900)) if rule == "min_max_side" else None,
        max_side=draw(st.integers(900, 1400)) if rule == "min_max_side" and draw(st.booleans()) else None,
        pad_multiple=draw(st.sampled_from([1, 2, 32, 33])),
        pad_position=draw(st.sampled_from(["center", "right_bottom"])),
        scale_up=draw(st.booleans()),
    )


@settings(deadline=None, max_examples=300)
@given(width=side, height=side, spec=specs())
def test_placement_keeps_its_promises(width: int, height: int, spec: PreprocessSpec) -> None:
    source = ImageSize(width, height)
    try:
        placement = place(source, spec)
    except ImageTooLarge:
        assert max(width, height) / min(width, height) > 50
        return
    plane, resized, (x, y) = placement.plane, placement.resized, placement.offset
    assert plane.width % spec.pad_multiple == plane.height % spec.pad_multiple == 0
    if plane_of(spec) is not None:
        assert plane == plane_of(spec)
    assert resized.width * resized.height <= max(MAX_RESIZED_PIXELS, width * height)
    if not spec.scale_up and spec.resize not in ("stretch", "pad_square"):
        assert resized.width <= width and resized.height <= height
    if spec.resize not in ("shortest_side_crop", "center_crop"):
        assert 0 <= x <= plane.width - resized.width and 0 <= y <= plane.height - resized.height
    if spec.resize == "letterbox":
        assert resized.width in (spec.width, width, 1) or resized.height in (spec.height, height, 1)
        assert abs(resized.width / width - resized.height / height) <= 1 / min(width, height) + 1e-9


@settings(deadline=None, max_examples=300)
@given(width=side, height=side, spec=specs(), corners=st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_boxes_come_back(width: int, height: int, spec: PreprocessSpec, corners: list[float]) -> None:
    try:
        transform = place(ImageSize(width, height), spec).transform
    except ImageTooLarge:
        return
    x1, x2 = sorted((corners[0] * width, corners[1] * width))
    y1, y2 = sorted((corners[2] * height, corners[3] * height))
    (sx, sy), (ox, oy) = transform.scale, transform.offset
    model = np.array([[x1 * sx + ox, y1 * sy + oy, x2 * sx + ox, y2 * sy + oy]], np.float32)
    back = transform.to_source(model)
    # float32 resolves 2^-23 of the largest number on the way.
    bound = 2.0**-22 * (np.abs(model).max() + abs(ox) + abs(oy)) / min(sx, sy) + 1e-3
    assert np.abs(back - [x1, y1, x2, y2]).max() <= bound


@pytest.mark.parametrize(
    ("source", "plane", "resized", "offset"),
    [
        ((640, 480), (640, 640), (640, 480), (0, 80)),
        ((480, 640), (640, 640), (480, 640), (80, 0)),
        # An odd border: round(dw - 0.1) on the left, the larger half on the right.
        ((1000, 333), (640, 640), (640, 213), (0, 213)),
        ((333, 1000), (640, 640), (213, 640), (213, 0)),
        # 5 x 0.5 = 2.5 is rounded to the even 2, as Python's round does.
        ((5, 10), (4, 5), (2, 5), (1, 0)),
        ((16384, 2), (640, 640), (640, 1), (0, 319)),
    ],
)
def test_letterbox_by_hand(
    source: tuple[int, int], plane: tuple[int, int], resized: tuple[int, int], offset: tuple[int, int]
) -> None:
    spec = PreprocessSpec(width=plane[0], height=plane[1], resize="letterbox", pad_value=114)
    placement = place(ImageSize(*source), spec)
    assert (placement.resized, placement.offset) == (ImageSize(*resized), offset)


def test_padding_to_a_multiple_by_hand() -> None:
    spec = PreprocessSpec(resize="min_max_side", min_side=100, pad_multiple=32)
    centred = place(ImageSize(100, 151), spec)
    assert (centred.plane, centred.offset) == (ImageSize(128, 160), (14, 4))
    corner = place(ImageSize(100, 151), spec.model_copy(update={"pad_position": "right_bottom"}))
    assert (corner.plane, corner.offset) == (ImageSize(128, 160), (0, 0))


def test_min_max_side_on_a_fixed_plane() -> None:
    spec = PreprocessSpec(resize="min_max_side", max_side=320, width=320, height=320, pad_position="right_bottom")
    placement = place(ImageSize(640, 400), spec)
    assert (placement.resized, placement.plane, placement.offset) == (ImageSize(320, 200), ImageSize(320, 320), (0, 0))
    with pytest.raises(ImageUnsupported, match="does not fit"):
        place(ImageSize(640, 400), spec.model_copy(update={"height": 199}))


def test_rule_none_takes_no_other_size_in_silence() -> None:
    spec = PreprocessSpec(resize="none", width=28, height=28)
    assert place(ImageSize(28, 28), spec).plane == ImageSize(28, 28)
    with pytest.raises(ImageUnsupported, match="28 x 28"):
        place(ImageSize(29, 28), spec)


def test_a_narrow_picture_does_not_become_a_huge_one() -> None:
    spec = PreprocessSpec(width=224, height=224, resize="shortest_side_crop", shortest_side=256)
    with pytest.raises(ImageTooLarge, match="2097152"):
        place(ImageSize(16384, 2), spec)


@pytest.mark.parametrize(
    ("source", "position", "border"),
    [
        ((100, 151), "right_bottom", (0, 0, 51, 0)),
        ((151, 100), "right_bottom", (0, 0, 0, 51)),
        ((100, 151), "center", (25, 0, 26, 0)),
        ((80, 80), "center", (0, 0, 0, 0)),
    ],
)
def test_pad_square_by_hand(source: tuple[int, int], position: str, border: tuple[int, int, int, int]) -> None:
    spec = PreprocessSpec(width=416, height=208, resize="pad_square", pad_position=position)  # type: ignore[arg-type]
    placement = place(ImageSize(*source), spec)
    side = max(source)
    assert placement.border == border and placement.padded == ImageSize(side, side)
    assert placement.resized == placement.plane == ImageSize(416, 208) and placement.offset == (0, 0)
    assert placement.transform.scale == (416 / side, 208 / side)
    assert placement.transform.offset == (border[0] * 416 / side, border[1] * 208 / side)


def test_a_picture_that_would_make_a_huge_square_is_refused() -> None:
    spec = PreprocessSpec(width=416, height=416, resize="pad_square")
    with pytest.raises(ImageTooLarge, match="pad_square would make 16384 x 16384"):
        place(ImageSize(16384, 2), spec)
    assert place(ImageSize(7746, 5164), spec).padded.width == 7746, "40 megapixels of 3:2 are taken"


def test_pad_square_has_no_fast_path() -> None:
    with pytest.raises(ValueError, match="fast: not with resize pad_square"):
        PreprocessSpec(width=416, height=416, resize="pad_square", fast=True)
