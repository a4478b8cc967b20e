"""The resize kernels by name. Two libraries' `bilinear` differ by tens of levels, so the kernel is part of the spec."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from serving.spec import Kernel
from serving.types import Array, FloatArray, ImageSize, IntArray, PixelArray

PIL_KERNELS = {
    "pil_bilinear": Image.Resampling.BILINEAR,
    "pil_bicubic": Image.Resampling.BICUBIC,
    "pil_nearest": Image.Resampling.NEAREST,
}
_CV2 = {"cv2_linear": cv2.INTER_LINEAR, "cv2_area": cv2.INTER_AREA, "cv2_nearest": cv2.INTER_NEAREST}


def resize(pixels: PixelArray, size: ImageSize, kernel: Kernel) -> Array:
    """Resize `[h, w]` or `[h, w, 3]` uint8 to `size`.

    The result is uint8, except for `tf1_bilinear`, which is float32 as TensorFlow 1 gives it (0..255, not rounded).
    """
    if pixels.shape[:2] == (size.height, size.width):
        return pixels
    if kernel in PIL_KERNELS:
        return np.asarray(Image.fromarray(pixels).resize((size.width, size.height), PIL_KERNELS[kernel]))
    if kernel in _CV2:
        return np.asarray(cv2.resize(pixels, (size.width, size.height), interpolation=_CV2[kernel]), np.uint8)
    return _OWN[kernel](pixels, size)


def tf1_bilinear(pixels: PixelArray, size: ImageSize) -> FloatArray:
    """`tf.image.resize_bilinear` of TensorFlow 1 (align_corners=False, half_pixel_centers=False), float32.

    Sample position = index * (in / out) with no half-pixel shift and no antialiasing; arithmetic in float32 in the
    order of TensorFlow's CPU kernel (tensorflow/core/kernels/image/resize_bilinear_op.cc).
    """
    rows, next_rows, row_weight = _positions(pixels.shape[0], size.height)
    columns, next_columns, column_weight = _positions(pixels.shape[1], size.width)
    deep = pixels if pixels.ndim == 3 else pixels[:, :, None]
    across = column_weight[None, :, None]

    def along(line: PixelArray) -> FloatArray:
        left = np.take(line, columns, axis=1).astype(np.float32)
        right = np.take(line, next_columns, axis=1).astype(np.float32)
        return left + (right - left) * across

    top, bottom = along(deep[rows]), along(deep[next_rows])
    result = top + (bottom - top) * row_weight[:, None, None]
    return result if pixels.ndim == 3 else result[:, :, 0]


def _positions(source: int, target: int) -> tuple[IntArray, IntArray, FloatArray]:
    position = np.arange(target, dtype=np.float32) * (np.float32(source) / np.float32(target))
    lower = np.minimum(np.floor(position).astype(np.int64), source - 1)
    return lower, np.minimum(lower + 1, source - 1), position - lower.astype(np.float32)


_OWN: dict[str, Callable[[PixelArray, ImageSize], FloatArray]] = {"tf1_bilinear": tf1_bilinear}
