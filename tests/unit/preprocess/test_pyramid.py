"""Means over areas are torch's own; levels of a pyramid lie apart on their plane, whatever the picture's size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.preprocess.pyramid import LONGEST, AreaMeans, on_plane, pyramid
from serving.types import FloatArray, ImageSize, PixelArray

PLANE = ImageSize(672, 480)


def noise(width: int, height: int, seed: int = 3) -> PixelArray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def torchs(pixels: PixelArray, width: int, height: int) -> FloatArray:
    torch = pytest.importorskip("torch")
    planes = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float()[None]
    found: FloatArray = torch.nn.functional.interpolate(planes, size=(height, width), mode="area")[0].numpy()
    return found


@pytest.mark.needs("torch")
@pytest.mark.parametrize(
    ("width", "height", "across", "down"),
    [(64, 48, 24, 24), (61, 47, 37, 29), (7, 9, 24, 24), (640, 37, 385, 23), (5, 5, 5, 5), (1, 1, 48, 48)],
)
def test_a_resized_picture_is_torchs(width: int, height: int, across: int, down: int) -> None:
    pixels = noise(width, height)
    assert np.abs(AreaMeans(pixels).resized(across, down) - torchs(pixels, across, down)).max() < 1e-3


@pytest.mark.needs("torch")
@pytest.mark.parametrize("side", [24, 48])
def test_crops_are_torchs_each_of_its_own_size(side: int) -> None:
    pixels, rng = noise(97, 83), np.random.default_rng(5)
    first = rng.integers(0, 70, (40, 2))
    last = np.minimum(first + rng.integers(1, 90, (40, 2)), (97, 83))
    found = AreaMeans(pixels).crops(np.concatenate([first, last], axis=1), side)
    assert found.shape == (40, 3, side, side) and found.dtype == np.float32
    for crop, (x1, y1), (x2, y2) in zip(found, first, last, strict=True):
        assert np.abs(crop - torchs(pixels[y1:y2, x1:x2], side, side)).max() < 1e-3


def test_the_brightest_picture_that_is_taken_does_not_overflow_its_sums() -> None:
    means = AreaMeans(np.full((LONGEST, LONGEST, 3), 255, np.uint8))
    assert (means.resized(1, 1) == 255).all() and (means.resized(3, 2) == 255).all()
    with pytest.raises(ValueError, match="at most 2560, got 2561x4"):
        AreaMeans(noise(LONGEST + 1, 4))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 20_000), st.integers(1, 20_000))
def test_levels_lie_apart_inside_the_plane_at_even_places(width: int, height: int) -> None:
    levels = pyramid(ImageSize(width, height), PLANE, 12, 20.0, 0.709)
    for number, level in enumerate(levels):
        assert level.x % 2 == level.y % 2 == 0
        assert level.x + level.width <= PLANE.width and level.y + level.height <= PLANE.height
        assert not any(level.overlaps(other) for other in levels[:number])
        assert level.scale == pytest.approx(levels[0].scale * 0.709**number)
        assert abs(level.width - width * level.scale) <= 1 and min(level.width, level.height) >= 12
    if levels:
        assert min(width, height) * levels[-1].scale * 0.709 < 12 <= min(width, height) * levels[-1].scale
    if min(width, height) < 20:
        assert levels == ()


@pytest.mark.parametrize(
    ("width", "height", "smallest"),
    [(640, 480, 20.0), (480, 640, 20.0), (300, 200, 20.0), (1280, 720, 33.0), (1920, 1080, 49.0), (2560, 2560, 95.0)],
)
def test_the_smallest_face_grows_with_the_picture_and_no_more_than_this(
    width: int, height: int, smallest: float
) -> None:
    levels = pyramid(ImageSize(width, height), PLANE, 12, 20.0, 0.709)
    assert 12 / levels[0].scale <= smallest + 1e-9


def test_a_level_stands_at_its_place_and_nothing_beside_it() -> None:
    pixels = noise(200, 150)
    means = AreaMeans(pixels)
    levels = pyramid(means.size, PLANE, 12, 20.0, 0.709)
    plane = on_plane(means, levels, PLANE)
    assert plane.shape == (3, 480, 672) and plane.dtype == np.float32 and len(levels) >= 5
    for level in levels:
        part = plane[:, level.y : level.y + level.height, level.x : level.x + level.width]
        assert np.array_equal(part, means.resized(level.width, level.height))
        part[:] = 0
    assert not plane.any()
