"""The fast path: the reference's geometry to a fraction of a pixel, and scaled decode only where it is allowed."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from serving.errors import BodyInvalid, ImageInvalid, ImageTooLarge
from serving.preprocess.decode import decode, read_header
from serving.preprocess.fast import choose_reduce, prepare_fast
from serving.preprocess.limits import DecodeLimits
from serving.preprocess.reference import prepare
from serving.spec import PreprocessSpec

Encode = Callable[..., bytes]
TORCHVISION = PreprocessSpec(width=224, height=224, resize="shortest_side_crop", shortest_side=256)
LETTERBOX = PreprocessSpec(width=320, height=320, resize="letterbox", kernel="cv2_linear", pad_value=114)
TF1 = PreprocessSpec(width=300, height=300, kernel="tf1_bilinear", range="signed")
CROP = PreprocessSpec(width=64, height=64, resize="center_crop")


@pytest.mark.parametrize(
    ("size", "spec", "reduce"),
    [
        ((640, 480), TORCHVISION, 1),  # under half a megapixel
        ((800, 625), TORCHVISION, 1),  # exactly half a megapixel
        ((1364, 1023), TORCHVISION, 1),  # Pillow has to shrink by two after it
        ((1366, 1024), TORCHVISION, 2),
        ((4000, 3000), TORCHVISION, 4),
        ((1278, 639), LETTERBOX, 2),
        ((1000, 639), LETTERBOX, 2),
        ((1280, 1280), LETTERBOX, 4),
        ((1279, 1279), LETTERBOX, 2),
        ((4000, 3000), LETTERBOX, 8),
        ((1300, 1300), LETTERBOX, 4),
        ((2000, 599), TF1, 1),  # one side is under twice the target
        ((4000, 3000), CROP, 1),
        ((4000, 3000), PreprocessSpec(resize="none"), 1),
        ((2000, 1000), PreprocessSpec(resize="min_max_side", max_side=500), 2),
    ],
)
def test_choice_of_the_reduction(encode: Encode, size: tuple[int, int], spec: PreprocessSpec, reduce: int) -> None:
    image = Image.new("RGB", size)
    assert choose_reduce(read_header(encode(image, "JPEG")), spec) == reduce
    assert choose_reduce(read_header(encode(image, "PNG")), spec) == 1


def _spot(width: int, height: int, x: float, y: float, sigma: float) -> Image.Image:
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    across, down = np.exp(-(((columns - x) / sigma) ** 2)), np.exp(-(((rows - y) / sigma) ** 2))
    return Image.fromarray(np.rint(250 * down[:, None] * across).astype(np.uint8)).convert("RGB")


def _centre(pixels: np.ndarray) -> np.ndarray:
    weight = pixels[:, :, 0].astype(float)
    rows, columns = np.indices(weight.shape) + 0.5
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("width", "height"), [(1201, 907), (1206, 801)])
@pytest.mark.parametrize("kernel", ["pil_bilinear", "tf1_bilinear"])
def test_a_spot_lands_where_the_transform_says(
    encode: Encode, width: int, height: int, orientation: int, kernel: str
) -> None:
    """Odd sides and all orientations: the partial blocks of a reduced decode may lie at any edge."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(_spot(width, height, width - 120.0, height - 150.0, 30), "JPEG", quality=95, exif=exif.tobytes())
    spec = PreprocessSpec(width=128, height=112, pad_value=0, kernel=kernel)
    assert choose_reduce(read_header(data), spec) > 1
    source = _centre(decode(data))
    fast = prepare_fast(data, spec)
    scale, offset = np.array(fast.transform.scale), np.array(fast.transform.offset)
    assert np.abs(_centre(fast.pixels) - (source * scale + offset)).max() < 0.06
    assert fast.transform == prepare(decode(data), spec).transform


@pytest.mark.parametrize("spec", [TORCHVISION, LETTERBOX, CROP], ids=["torchvision", "letterbox", "crop"])
def test_near_the_reference_on_photos(photo: bytes, spec: PreprocessSpec) -> None:
    reference, fast = prepare(decode(photo), spec), prepare_fast(photo, spec)
    assert fast.pixels.shape == reference.pixels.shape and fast.tensor.dtype == np.float32
    assert fast.transform == reference.transform
    assert np.abs(fast.pixels.astype(int) - reference.pixels).mean() < 6
    assert np.array_equal((fast.pixels == 114).all(axis=(1, 2)), (reference.pixels == 114).all(axis=(1, 2)))


def test_it_is_the_reference_where_nothing_is_to_gain(rocket: bytes) -> None:
    assert prepare_fast(rocket, LETTERBOX).sha256 == prepare(decode(rocket), LETTERBOX).sha256
    assert prepare_fast(decode(rocket), LETTERBOX).sha256 == prepare(decode(rocket), LETTERBOX).sha256
    assert prepare_fast(rocket, CROP).sha256 == prepare(decode(rocket), CROP).sha256


@pytest.mark.parametrize("colour", ["rgb", "bgr", "grey", "pseudo_grey"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_colours_and_layouts(rocket: bytes, colour: str, layout: str) -> None:
    spec = LETTERBOX.model_copy(update={"colour": colour, "layout": layout})
    fast, reference = prepare_fast(rocket, spec), prepare(decode(rocket), spec)
    assert fast.tensor.shape == reference.tensor.shape
    assert np.abs(fast.tensor - reference.tensor).max() <= 1.5 / 255


def test_bad_input_is_refused_as_by_the_reference(rocket: bytes) -> None:
    with pytest.raises(ImageInvalid):
        prepare_fast(rocket[:5000], TORCHVISION)
    with pytest.raises(ImageTooLarge):
        prepare_fast(rocket, TORCHVISION, DecodeLimits(max_side=100))
    with pytest.raises(BodyInvalid):
        prepare_fast(np.zeros((4, 4), np.uint8), TORCHVISION)


def test_it_is_faster_on_a_large_photo(photo: bytes, encode: Encode) -> None:
    with Image.fromarray(decode(photo)) as image:
        data = encode(image.resize((3000, 2000)), "JPEG", quality=85)

    def best(run: Callable[[], object]) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return min(times)

    assert best(lambda: prepare_fast(data, TORCHVISION)) < best(lambda: prepare(decode(data), TORCHVISION))
