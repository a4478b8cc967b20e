"""prepare: colour, padding, range, normalisation and layout, each against arithmetic written here."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import BodyInvalid, ImageTooLarge
from serving.preprocess.reference import prepare
from serving.spec import PreprocessSpec

RULES = ("none", "stretch", "pad_square", "letterbox", "shortest_side_crop", "center_crop", "min_max_side")
KERNELS = ("pil_bilinear", "pil_bicubic", "pil_nearest", "cv2_linear", "cv2_area", "cv2_nearest", "tf1_bilinear")


def _noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(deadline=None, max_examples=150)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    rule=st.sampled_from(RULES),
    kernel=st.sampled_from(KERNELS),
    colour=st.sampled_from(["rgb", "bgr", "grey", "pseudo_grey"]),
    layout=st.sampled_from(["nchw", "nhwc"]),
    multiple=st.sampled_from([1, 7, 32]),
)
def test_shapes_and_types(
    height: int, width: int, rule: str, kernel: str, colour: str, layout: str, multiple: int
) -> None:
    free = rule in ("none", "min_max_side")
    spec = PreprocessSpec.model_validate(
        {
            "width": 0 if free else 37,
            "height": 0 if free else 23,
            "resize": rule,
            "kernel": kernel,
            "shortest_side": 29,
            "min_side": 21,
            "max_side": 64,
            "colour": colour,
            "layout": layout,
            "pad_multiple": multiple,
            "pad_value": 114,
        }
    )
    got = prepare(_noise(height, width), spec)
    rows, columns, channels = got.pixels.shape
    assert channels == spec.channels and got.pixels.dtype == np.uint8 and got.pixels.flags.c_contiguous
    assert got.tensor.dtype == np.float32 and got.tensor.flags.c_contiguous
    assert got.tensor.shape == ((channels, rows, columns) if layout == "nchw" else (rows, columns, channels))
    assert (got.transform.model.width, got.transform.model.height) == (columns, rows)
    if not free:
        assert (rows, columns) == (-(-23 // multiple) * multiple, -(-37 // multiple) * multiple)
    upright = got.tensor.transpose(1, 2, 0) if layout == "nchw" else got.tensor
    assert np.abs(upright * 255 - got.pixels).max() <= (0.5001 if kernel == "tf1_bilinear" else 1e-4)


@pytest.mark.parametrize("pad", [0, 114, 127, 255])
@pytest.mark.parametrize("position", ["center", "right_bottom"])
def test_pad_values_fill_the_border_and_nothing_else(pad: int, position: str) -> None:
    spec = PreprocessSpec.model_validate(
        {
            "width": 50,
            "height": 41,
            "resize": "letterbox",
            "pad_value": pad,
            "pad_position": position,
            "scale_up": False,
        }
    )
    frame = np.full((20, 30, 3), 200, np.uint8)
    pixels = prepare(frame, spec).pixels
    x, y = (10, 10) if position == "center" else (0, 0)
    assert (pixels[y : y + 20, x : x + 30] == 200).all()
    border = np.ones((41, 50), bool)
    border[y : y + 20, x : x + 30] = False
    assert (pixels[border] == pad).all()


def test_a_crop_larger_than_the_picture_is_padded_on_all_sides() -> None:
    spec = PreprocessSpec(width=7, height=2, resize="center_crop", pad_value=9)
    pixels = prepare(_noise(4, 4), spec).pixels
    assert pixels.shape == (2, 7, 3)
    assert (pixels[:, 0] == 9).all() and (pixels[:, 5:] == 9).all()
    assert np.array_equal(pixels[:, 1:5], _noise(4, 4)[1:3])


def test_colour_orders() -> None:
    frame = _noise(5, 6)
    none = {"resize": "none"}
    rgb = prepare(frame, PreprocessSpec.model_validate(none | {"colour": "rgb"})).pixels
    bgr = prepare(frame, PreprocessSpec.model_validate(none | {"colour": "bgr"})).pixels
    grey = prepare(frame, PreprocessSpec.model_validate(none | {"colour": "grey"})).pixels
    pseudo = prepare(frame, PreprocessSpec.model_validate(none | {"colour": "pseudo_grey"})).pixels
    assert np.array_equal(rgb, frame) and np.array_equal(bgr, frame[:, :, ::-1])
    red, green, blue = (frame[:, :, i].astype(int) for i in range(3))
    luma = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    assert np.array_equal(grey[:, :, 0], luma)
    assert grey.shape[2] == 1 and np.array_equal(pseudo, np.repeat(grey, 3, axis=2))


@pytest.mark.parametrize(
    ("value_range", "expected"),
    [
        ("unit", lambda x: x / np.float32(255)),
        ("byte", lambda x: x),
        ("signed", lambda x: x * np.float32(2 / 255) - np.float32(1)),
    ],
)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("colour", ["rgb", "grey"])
def test_range_mean_and_std_are_float32_to_the_last_bit(value_range: str, expected, layout: str, colour: str) -> None:  # type: ignore[no-untyped-def]
    frame = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if colour == "rgb" else ((0.1,), (0.3,))
    spec = PreprocessSpec.model_validate(
        {"resize": "none", "range": value_range, "mean": mean, "std": std, "layout": layout, "colour": colour}
    )
    got = prepare(frame, spec).tensor
    want = (expected(frame[:, :, : len(mean)].astype(np.float32)) - np.float32(mean)) / np.float32(std)
    assert np.array_equal(got.transpose(1, 2, 0) if layout == "nchw" else got, want)
    assert {"unit": 0.0, "byte": 0.0, "signed": -1.0}[value_range] == pytest.approx(got.min() * std[0] + mean[0], abs=1)


def test_the_extremes_of_each_range() -> None:
    frame = np.zeros((2, 1, 3), np.uint8)
    frame[1] = 255
    for value_range, low, high in (("unit", 0, 1), ("byte", 0, 255), ("signed", -1, 1)):
        tensor = prepare(frame, PreprocessSpec.model_validate({"resize": "none", "range": value_range})).tensor
        assert (tensor.min(), tensor.max()) == (low, high)


def test_the_hash_is_of_the_pixels_before_normalising() -> None:
    frame = _noise(31, 17)
    plain = prepare(frame, PreprocessSpec(width=8, height=9))
    other = prepare(frame, PreprocessSpec(width=8, height=9, mean=(0.5,) * 3, layout="nhwc"))
    assert plain.sha256 == other.sha256 == hashlib.sha256(plain.pixels.tobytes()).hexdigest()
    assert prepare(frame, PreprocessSpec(width=8, height=9, colour="bgr")).sha256 != plain.sha256


def test_the_source_is_never_changed() -> None:
    frame = _noise(12, 12)
    frame.setflags(write=False)
    prepare(frame, PreprocessSpec(resize="none", pad_multiple=5, colour="bgr"))
    prepare(frame, PreprocessSpec(width=3, height=3, kernel="cv2_area"))


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
    ids=lambda frame: f"{frame.dtype}{frame.shape}",
)
def test_frames_of_another_shape_or_dtype(frame: np.ndarray) -> None:
    with pytest.raises(BodyInvalid, match=r"expected UINT8 \[height, width, 3\]"):
        prepare(frame, PreprocessSpec(width=8, height=8))


def test_a_frame_over_the_limits() -> None:
    with pytest.raises(ImageTooLarge):
        prepare(np.zeros((40_001, 2, 3), np.uint8), PreprocessSpec(width=8, height=8))


@pytest.mark.parametrize("colour", ["rgb", "bgr", "grey", "pseudo_grey"])
def test_a_strided_frame_gives_what_its_copy_gives(colour: str) -> None:
    for frame in (_noise(40, 60)[::2, ::-1], _noise(40, 60)[3:31, 7:50], _noise(40, 60)[:, :, ::-1]):
        for kernel in KERNELS:
            spec = PreprocessSpec.model_validate({"width": 13, "height": 11, "kernel": kernel, "colour": colour})
            assert prepare(frame, spec).sha256 == prepare(np.ascontiguousarray(frame), spec).sha256
