"""The fast `tf1_bilinear` equals the plain one bit for bit, with and without a border; recipe and rule agree."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters import training_recipes
from serving.preprocess.decode import decode
from serving.preprocess.kernels import NO_BORDER, Border, bordered, tf1_bilinear
from serving.preprocess.reference import prepare
from serving.spec import PreprocessSpec
from serving.types import FloatArray, ImageSize, PixelArray


def plainly(pixels: PixelArray, size: ImageSize) -> FloatArray:
    """The documented arithmetic, one operation after the other, in float32."""

    def positions(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        position = np.arange(target, dtype=np.float32) * (np.float32(source) / np.float32(target))
        lower = np.minimum(np.floor(position).astype(np.int64), source - 1)
        return lower, np.minimum(lower + 1, source - 1), position - lower.astype(np.float32)

    upper, under, down = positions(pixels.shape[0], size.height)
    before, after, across = positions(pixels.shape[1], size.width)
    deep = (pixels if pixels.ndim == 3 else pixels[:, :, None]).astype(np.float32)
    share = across[None, :, None]
    top = deep[upper][:, before] + (deep[upper][:, after] - deep[upper][:, before]) * share
    bottom = deep[under][:, before] + (deep[under][:, after] - deep[under][:, before]) * share
    result = top + (bottom - top) * down[:, None, None]
    return result if pixels.ndim == 3 else result[:, :, 0]


side = st.integers(1, 130)


@settings(deadline=None, max_examples=400)
@given(
    height=side, width=side, rows=side, columns=side, grey=st.booleans(), seed=st.integers(0, 2**32 - 1),
    border=st.one_of(st.just(NO_BORDER), st.tuples(*[st.integers(0, 40)] * 4)), pad=st.integers(0, 255),
)  # fmt: skip
def test_every_bit_is_that_of_the_plain_arithmetic(
    height: int, width: int, rows: int, columns: int, grey: bool, seed: int, border: Border, pad: int
) -> None:
    shape = (height, width) if grey else (height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    ours = tf1_bilinear(pixels, ImageSize(columns, rows), border, pad)
    expected = plainly(bordered(pixels, border, pad), ImageSize(columns, rows))
    assert ours.dtype == np.float32 and ours.shape == expected.shape
    assert np.array_equal(ours, expected)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (4000, 3000), (16384, 40), (3, 16384), (1, 1)])
@pytest.mark.parametrize("target", [300, 416])
def test_so_are_those_of_large_and_narrow_pictures(width: int, height: int, target: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    size = ImageSize(target, target)
    assert np.array_equal(tf1_bilinear(pixels, size), plainly(pixels, size))


def test_a_view_of_a_picture_is_read_as_it_lies() -> None:
    """A crop by `roi` and a mirrored picture are not contiguous."""
    whole = np.random.default_rng(2).integers(0, 256, (90, 120, 3), np.uint8)
    for view in (whole[10:70, 20:90], whole[::-1], whole[:, ::-1, ::-1]):
        assert np.array_equal(tf1_bilinear(view, ImageSize(50, 40)), plainly(view, ImageSize(50, 40)))


def test_opencv_may_use_threads_and_none() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (480, 640, 3), np.uint8)
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        one = tf1_bilinear(pixels, ImageSize(300, 300))
        cv2.setNumThreads(2)
        assert np.array_equal(one, tf1_bilinear(pixels, ImageSize(300, 300)))
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("size", [416, (64, 500)])
def test_the_training_sides_pad_then_resize_is_the_rule_pad_square(photo: bytes, size: int | tuple[int, int]) -> None:
    mean, std = (117.001, 114.697, 97.404), (255.0, 255.0, 255.0)
    pixels, tensor = training_recipes.tf1_pad_square(photo, size=size, mean=mean, std=std, pad=9)
    high, wide = (size, size) if isinstance(size, int) else size
    spec = PreprocessSpec(
        width=wide, height=high, resize="pad_square", kernel="tf1_bilinear", pad_value=9, pad_position="right_bottom",
        range="byte", mean=mean, std=std,
    )  # fmt: skip
    ours = prepare(decode(photo), spec)
    assert np.array_equal(pixels, ours.pixels)
    assert np.abs(tensor - ours.tensor).max() <= 1e-6


@pytest.mark.parametrize("kernel", ["pil_bilinear", "cv2_linear", "cv2_area", "pil_nearest"])
def test_other_kernels_resize_the_padded_picture_too(photo: bytes, kernel: str) -> None:
    picture = decode(photo)
    square = np.full((max(picture.shape),) * 2 + (3,), 7, np.uint8)
    square[: picture.shape[0], : picture.shape[1]] = picture
    told = {"width": 120, "height": 120, "kernel": kernel}
    padded = PreprocessSpec.model_validate(
        {**told, "resize": "pad_square", "pad_value": 7, "pad_position": "right_bottom"}
    )
    assert prepare(picture, padded).sha256 == prepare(square, PreprocessSpec.model_validate(told)).sha256
