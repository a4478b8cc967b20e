"""Our reference path against training code on real photos: difference 0 in uint8, a stated bound after."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from converters import training_recipes
from serving.preprocess.decode import decode
from serving.preprocess.kernels import tf1_bilinear
from serving.preprocess.reference import prepare
from serving.spec import PreprocessSpec
from serving.types import ImageSize

Pillow = Callable[[bytes], np.ndarray]
MEAN, STD = training_recipes.IMAGENET_MEAN, training_recipes.IMAGENET_STD


@pytest.mark.needs("torch")
@pytest.mark.parametrize("crop", [(224, 224), (192, 160), (300, 300)])
def test_torchvision_classification(photo: bytes, crop: tuple[int, int]) -> None:
    spec = PreprocessSpec(
        width=crop[1], height=crop[0], resize="shortest_side_crop", shortest_side=256, mean=MEAN, std=STD
    )
    pixels, tensor = training_recipes.torchvision_classification(photo, resize=256, crop=crop)
    ours = prepare(decode(photo), spec)
    assert np.array_equal(pixels, ours.pixels)
    assert np.abs(tensor - ours.tensor).max() <= 1e-6


@pytest.mark.needs("torch")
def test_torchvision_grey(photo: bytes) -> None:
    spec = PreprocessSpec(
        width=224, height=224, resize="shortest_side_crop", shortest_side=232, colour="grey", mean=(0.5,), std=(0.25,)
    )
    pixels, tensor = training_recipes.torchvision_classification(photo, resize=232, mean=[0.5], std=[0.25], grey=True)
    ours = prepare(decode(photo), spec)
    assert np.array_equal(pixels, ours.pixels) and ours.pixels.shape == (224, 224, 1)
    assert np.abs(tensor - ours.tensor).max() <= 1e-6


@pytest.mark.needs("torch")
@pytest.mark.parametrize(("short", "limit"), [(300, 500), (800, 1333), (200, 250)])
def test_torchvision_min_and_max_side(photo: bytes, pillow: Pillow, short: int, limit: int) -> None:
    from torchvision import transforms

    image = transforms.Resize(short, max_size=limit)(Image.fromarray(pillow(photo)))
    ours = prepare(decode(photo), PreprocessSpec(resize="min_max_side", min_side=short, max_side=limit))
    assert np.array_equal(np.asarray(image), ours.pixels)


@pytest.mark.needs("torch")
def test_torchvision_center_crop_alone_crops_and_pads(photo: bytes, pillow: Pillow) -> None:
    from torchvision import transforms

    for high, wide in ((101, 200), (333, 1501), (2001, 90)):
        image = transforms.CenterCrop((high, wide))(Image.fromarray(pillow(photo)))
        ours = prepare(decode(photo), PreprocessSpec(resize="center_crop", width=wide, height=high))
        assert np.array_equal(np.asarray(image), ours.pixels)


@pytest.mark.parametrize(("size", "pad"), [((640, 640), 114), ((416, 416), 127), ((384, 640), 0), ((321, 203), 255)])
@pytest.mark.parametrize("bgr", [False, True])
def test_yolo_letterbox(photo: bytes, size: tuple[int, int], pad: int, bgr: bool) -> None:
    pixels, tensor = training_recipes.opencv_letterbox(photo, size=size, pad=pad, bgr=bgr)
    spec = PreprocessSpec(
        width=size[1],
        height=size[0],
        resize="letterbox",
        kernel="cv2_linear",
        pad_value=pad,
        colour="bgr" if bgr else "rgb",
    )
    ours = prepare(decode(photo), spec)
    assert np.array_equal(pixels, ours.pixels)
    assert np.abs(tensor - ours.tensor).max() <= 1e-6


def test_yolo_letterbox_that_does_not_enlarge(rocket: bytes) -> None:
    pixels, _ = training_recipes.opencv_letterbox(rocket, size=(801, 1000), scale_up=False)
    spec = PreprocessSpec(
        width=1000, height=801, resize="letterbox", kernel="cv2_linear", pad_value=114, scale_up=False
    )
    ours = prepare(decode(rocket), spec)
    assert np.array_equal(pixels, ours.pixels)
    assert ours.transform.scale == (1.0, 1.0) and ours.transform.offset == (180.0, 187.0)


def test_letterbox_at_the_right_and_bottom(photo: bytes) -> None:
    """The other place for the border, as YOLOX and mmdetection have it."""
    source = decode(photo)
    ratio = min(416 / source.shape[0], 416 / source.shape[1])
    wide, high = round(source.shape[1] * ratio), round(source.shape[0] * ratio)
    expected = np.full((416, 416, 3), 114, np.uint8)
    expected[:high, :wide] = cv2.resize(source, (wide, high), interpolation=cv2.INTER_LINEAR)
    spec = PreprocessSpec(
        width=416, height=416, resize="letterbox", kernel="cv2_linear", pad_value=114, pad_position="right_bottom"
    )
    assert np.array_equal(prepare(source, spec).pixels, expected)


@pytest.mark.needs("torch")
@pytest.mark.parametrize("size", [(224, 224), (160, 192), (999, 1111)])
def test_opencv_stretch(photo: bytes, size: tuple[int, int]) -> None:
    pixels, tensor = training_recipes.opencv_stretch(photo, size=size)
    spec = PreprocessSpec(width=size[1], height=size[0], mean=MEAN, std=STD, kernel="cv2_linear")
    ours = prepare(decode(photo), spec)
    assert np.array_equal(pixels, ours.pixels)
    assert np.abs(tensor - ours.tensor).max() <= 1e-6


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("size", [(32, 32), (160, 192), (999, 1111)])
def test_pillow_stretch(photo: bytes, size: tuple[int, int], grey: bool) -> None:
    mean, std = ((0.5,), (0.2,)) if grey else ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    pixels, tensor = training_recipes.pil_stretch(photo, size=size, mean=mean, std=std, grey=grey)
    spec = PreprocessSpec(
        width=size[1], height=size[0], mean=mean, std=std, colour="grey" if grey else "rgb", kernel="pil_bilinear"
    )
    ours = prepare(decode(photo), spec)
    assert np.array_equal(pixels, ours.pixels)
    assert np.abs(tensor - ours.tensor).max() <= 1e-6


@pytest.mark.parametrize(
    ("kernel", "theirs"),
    [
        ("pil_bicubic", lambda a, s: np.asarray(Image.fromarray(a).resize(s, Image.Resampling.BICUBIC))),
        ("pil_nearest", lambda a, s: np.asarray(Image.fromarray(a).resize(s, Image.Resampling.NEAREST))),
        ("cv2_linear", lambda a, s: cv2.resize(a, s)),
        ("cv2_area", lambda a, s: cv2.resize(a, s, interpolation=cv2.INTER_AREA)),
        ("cv2_nearest", lambda a, s: cv2.resize(a, s, interpolation=cv2.INTER_NEAREST)),
    ],
)
def test_the_other_kernels(photo: bytes, kernel: str, theirs: Callable[..., np.ndarray]) -> None:
    source = decode(photo)
    spec = PreprocessSpec(width=211, height=127, kernel=kernel)  # type: ignore[arg-type]
    assert np.array_equal(prepare(source, spec).pixels, theirs(source, (211, 127)))


@pytest.mark.parametrize("grey", ["grey", "pseudo_grey"])
def test_grey_of_the_opencv_kernels_is_opencv_grey(photo: bytes, grey: str) -> None:
    source = decode(photo)
    spec = PreprocessSpec(width=96, height=64, kernel="cv2_linear", colour=grey)  # type: ignore[arg-type]
    expected = cv2.resize(cv2.cvtColor(source, cv2.COLOR_RGB2GRAY), (96, 64))
    ours = prepare(source, spec).pixels
    assert all(np.array_equal(ours[:, :, i], expected) for i in range(ours.shape[2]))
    assert ours.shape[2] == spec.channels


@pytest.mark.parametrize("size", [(300, 300), (64, 500), (733, 41)])
@pytest.mark.parametrize("value_range", ["signed", "unit", "byte"])
def test_tensorflow_one_stretch(photo: bytes, size: tuple[int, int], value_range: str) -> None:
    pixels, tensor = training_recipes.tf1_stretch(photo, size=size, range=value_range)  # type: ignore[arg-type]
    spec = PreprocessSpec(width=size[1], height=size[0], kernel="tf1_bilinear", range=value_range)  # type: ignore[arg-type]
    ours = prepare(decode(photo), spec)
    assert np.array_equal(pixels, ours.pixels)
    assert np.abs(tensor - ours.tensor).max() <= 1e-6 * (255 if value_range == "byte" else 1)


def _onnx_resize(target: tuple[int, int]) -> onnxruntime.InferenceSession:
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node(
        "Resize",
        ["x", "", "", "sizes"],
        ["y"],
        mode="linear",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [4], [1, 3, *target])
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, None, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, *target])],
        [sizes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _both(source: np.ndarray, target: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    ours = tf1_bilinear(source, ImageSize(target[1], target[0]))
    (theirs,) = _onnx_resize(target).run(None, {"x": source.astype(np.float32).transpose(2, 0, 1)[None]})
    return ours, theirs[0].transpose(1, 2, 0)


@pytest.mark.parametrize("factor", [0.25, 0.5, 2, 4])
def test_tf1_kernel_equals_the_onnx_resize_operator(photo: bytes, factor: float) -> None:
    """`asymmetric` is ONNX's name for TensorFlow 1's rule; where positions are exact in float32, so are the values."""
    source = decode(photo)[:400, :296]
    ours, theirs = _both(source, (int(source.shape[0] * factor), int(source.shape[1] * factor)))
    assert np.array_equal(np.rint(ours), np.rint(theirs)) and np.array_equal(ours, theirs)


@pytest.mark.parametrize("target", [(300, 300), (97, 513), (1000, 700)])
def test_tf1_kernel_is_within_float32_of_the_onnx_resize_operator(photo: bytes, target: tuple[int, int]) -> None:
    """ONNX Runtime divides by out / in where TensorFlow multiplies by in / out: positions differ by two roundings of
    float32, so values by 255 levels times that; uint8 is the same wherever no rounding tie is that near."""
    source = decode(photo)
    ours, theirs = _both(source, target)
    bound = 255 * max(source.shape) * 2.0**-22
    assert np.abs(ours - theirs).max() < bound
    clear = np.abs(ours % 1 - 0.5) > bound
    assert clear.mean() > 0.8
    assert np.array_equal(np.rint(ours)[clear], np.rint(theirs)[clear])


def test_the_kernels_are_not_one_another(rocket: bytes) -> None:
    """Were two kernels the same, a test above would prove nothing."""
    source = decode(rocket)
    kernels = ("pil_bilinear", "pil_bicubic", "pil_nearest", "cv2_linear", "cv2_area", "cv2_nearest", "tf1_bilinear")
    seen = {prepare(source, PreprocessSpec(width=100, height=90, kernel=k)).sha256 for k in kernels}  # type: ignore[arg-type]
    assert len(seen) == len(kernels)
