"""Preprocessing as training code writes it: torchvision, Pillow, OpenCV and TensorFlow 1, each in its own idiom.

The certificate's `preprocess` row compares serving/preprocess with these, so nothing here may use it: the two sides
share no code. Each function takes the file's bytes and gives `(pixels uint8 [h, w, c] before normalising,
tensor float32 [c, h, w])`. Its name goes into a model YAML as `parity.training_side`.
"""

from __future__ import annotations

import builtins
import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Tensor = npt.NDArray[np.float32]
ValueRange = Literal["unit", "byte", "signed"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def torchvision_classification(
    data: bytes,
    *,
    resize: int = 256,
    crop: int | Sequence[int] = 224,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    grey: bool = False,
) -> tuple[Pixels, Tensor]:
    """`Resize(resize)`, `CenterCrop(crop)`, `ToTensor`, `Normalize(mean, std)` on a Pillow picture.

    crop: side, or (height, width). grey: `Grayscale(1)` first. Source: torchvision's references/classification.
    """
    from torchvision import transforms

    steps: list[Any] = [transforms.Grayscale(1)] if grey else []
    steps += [transforms.Resize(resize), transforms.CenterCrop(crop)]
    image = transforms.Compose(steps)(_open(data))
    tensor = transforms.Normalize(list(mean), list(std))(transforms.ToTensor()(image))
    return _array(image), tensor.numpy()


def opencv_letterbox(
    data: bytes, *, size: int | Sequence[int] = 640, pad: int = 114, bgr: bool = False, scale_up: bool = True
) -> tuple[Pixels, Tensor]:
    """YOLO's letterbox: `cv2.imdecode`, one ratio, linear resize, grey border, centred; values 0..1.

    size: side, or (height, width). The arithmetic is that of the YOLOv5 repository's `letterbox(auto=False)`.
    """
    import cv2

    image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    rows, columns = image.shape[:2]
    high, wide = (size, size) if isinstance(size, int) else size
    gain = min(high / rows, wide / columns)
    gain = gain if scale_up else min(gain, 1.0)
    unpadded = (round(columns * gain), round(rows * gain))
    dw, dh = (wide - unpadded[0]) / 2, (high - unpadded[1]) / 2
    if (columns, rows) != unpadded:
        image = cv2.resize(image, unpadded, interpolation=cv2.INTER_LINEAR)
    top, bottom = round(dh - 0.1), round(dh + 0.1)
    left, right = round(dw - 0.1), round(dw + 0.1)
    image = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(pad, pad, pad))
    pixels: Pixels = np.ascontiguousarray(image if bgr else image[:, :, ::-1])
    return pixels, _chw(pixels.astype(np.float32) / np.float32(255))


def opencv_stretch(
    data: bytes,
    *,
    size: int | Sequence[int],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> tuple[Pixels, Tensor]:
    """`cv2.imdecode`, BGR to RGB, `cv2.resize`, `ToTensor`, `Normalize(mean, std)`.

    size: side, or (height, width). As deep-sort-realtime 1.3.2 prepares a crop (`MobileNetv2_Embedder.preprocess`).
    """
    import cv2
    from torchvision import transforms

    high, wide = (size, size) if isinstance(size, int) else size
    decoded: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    image: Any = cv2.resize(np.ascontiguousarray(decoded[..., ::-1]), (wide, high))
    tensor = transforms.Normalize(list(mean), list(std))(transforms.ToTensor()(image))
    return image, tensor.numpy()


def pil_stretch(
    data: bytes,
    *,
    size: int | Sequence[int],
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    grey: bool = False,
    range: ValueRange = "unit",
) -> tuple[Pixels, Tensor]:
    """`Image.resize((width, height), BILINEAR)`, then the value range and `(x - mean) / std`.

    size: side, or (height, width). grey: `convert("L")` before the resize, one channel.
    """
    from PIL import Image

    high, wide = (size, size) if isinstance(size, int) else size
    image = _open(data)
    image = (image.convert("L") if grey else image).resize((wide, high), Image.Resampling.BILINEAR)
    pixels = _array(image)
    values = _ranged(pixels.astype(np.float64), range)
    values = values - np.array(mean) if mean else values
    values = values / np.array(std) if std else values
    return pixels, _chw(values.astype(np.float32))


def tf1_stretch(data: bytes, *, size: int | Sequence[int], range: ValueRange = "signed") -> tuple[Pixels, Tensor]:
    """`tf.image.resize_bilinear(align_corners=False)` as TensorFlow 1 computes it, then the value range.

    size: side, or (height, width). Output row i lies at i * in / out, between the rows below and above, all in
    float32, row by row as TensorFlow's CPU kernel goes. The pixels are the floats rounded.
    """
    resized = _tf1_resized(_array(_open(data)), size)
    return np.rint(resized).astype(np.uint8), _chw(_ranged(resized.astype(np.float64), range).astype(np.float32))


def tf1_pad_square(
    data: bytes, *, size: int | Sequence[int], mean: Sequence[float] = (), std: Sequence[float] = (), pad: int = 0
) -> tuple[Pixels, Tensor]:
    """Padded to a square at the right or the bottom, then TensorFlow 1's resize, then `(x - mean) / std` of 0..255.

    size: side, or (height, width). As face-api prepares a picture (`padToSquare`, `resizeBilinear`, `normalize`).
    """
    image = _array(_open(data))
    side = max(image.shape[:2])
    square = np.full((side, side, 3), pad, np.uint8)
    square[: image.shape[0], : image.shape[1]] = image
    resized = _tf1_resized(square, size)
    values = resized.astype(np.float64)
    values = values - np.array(mean) if mean else values
    values = values / np.array(std) if std else values
    return np.rint(resized).astype(np.uint8), _chw(values.astype(np.float32))


def _tf1_resized(image: Pixels, size: int | Sequence[int]) -> Tensor:
    high, wide = (size, size) if isinstance(size, int) else size
    source = image.astype(np.float32)
    resized = np.empty((high, wide, source.shape[2]), np.float32)
    left_right = [_tf1_neighbours(x, source.shape[1], wide) for x in builtins.range(wide)]
    left, right = [n[0] for n in left_right], [n[1] for n in left_right]
    share = np.array([[n[2]] for n in left_right], np.float32)
    for y in builtins.range(high):
        above, below, down = _tf1_neighbours(y, source.shape[0], high)
        top = source[above, left] + (source[above, right] - source[above, left]) * share
        bottom = source[below, left] + (source[below, right] - source[below, left]) * share
        resized[y] = top + (bottom - top) * down
    return resized


def _ranged(values: npt.NDArray[np.float64], range: ValueRange) -> npt.NDArray[np.float64]:
    """unit: 0..1; byte: 0..255; signed: -1..1."""
    if range == "unit":
        return values / 255.0
    return values * (2.0 / 255.0) - 1.0 if range == "signed" else values


def _tf1_neighbours(index: int, source: int, target: int) -> tuple[int, int, np.float32]:
    position = np.float32(index) * (np.float32(source) / np.float32(target))
    lower = min(int(position), source - 1)
    return lower, min(lower + 1, source - 1), np.float32(position - np.float32(lower))


def _open(data: bytes) -> Any:
    """A Pillow picture as a dataset class opens it, upright."""
    from PIL import Image, ImageOps

    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def _array(image: Any) -> Pixels:
    pixels = np.array(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _chw(values: npt.NDArray[np.float32]) -> Tensor:
    return np.ascontiguousarray(values.transpose(2, 0, 1))
