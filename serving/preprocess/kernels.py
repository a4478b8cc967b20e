"""The resize kernels by name. Two libraries' `bilinear` differ by tens of levels, so the kernel is part of the spec."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

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


# Left, top, right, bottom: pixels put around a picture before it is resized.
Border = tuple[int, int, int, int]
NO_BORDER: Border = (0, 0, 0, 0)
# Rows of the result that are computed together: what is in between stays in the processor's cache.
_BLOCK_ROWS = 32


def resize(
    pixels: PixelArray, size: ImageSize, kernel: Kernel, border: Border = NO_BORDER, pad_value: int = 0
) -> Array:
    """Resize `[h, w]` or `[h, w, 3]` uint8, with `border` of `pad_value` around it, to `size`.

    The result is uint8, except for `tf1_bilinear`, which is float32 as TensorFlow 1 gives it (0..255, not rounded).
    """
    left, top, right, bottom = border
    if (pixels.shape[0] + top + bottom, pixels.shape[1] + left + right) == (size.height, size.width):
        return bordered(pixels, border, pad_value)
    if kernel == "tf1_bilinear":
        return tf1_bilinear(pixels, size, border, pad_value)
    pixels = bordered(pixels, border, pad_value)
    if kernel in PIL_KERNELS:
        return np.asarray(Image.fromarray(pixels).resize((size.width, size.height), PIL_KERNELS[kernel]))
    return np.asarray(cv2.resize(pixels, (size.width, size.height), interpolation=_CV2[kernel]), np.uint8)


def bordered(pixels: PixelArray, border: Border, pad_value: int) -> PixelArray:
    """The picture with pixels of one value around it; itself where there are none to put."""
    if border == NO_BORDER:
        return pixels
    left, top, right, bottom = border
    value = (pad_value,) * 3
    return np.asarray(cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=value), np.uint8)


def tf1_bilinear(pixels: PixelArray, size: ImageSize, border: Border = NO_BORDER, pad_value: int = 0) -> FloatArray:
    """`tf.image.resize_bilinear` of TensorFlow 1 (align_corners=False, half_pixel_centers=False), float32.

    Sample position = index * (in / out) with no half-pixel shift and no antialiasing; arithmetic in float32 in the
    order of TensorFlow's CPU kernel (tensorflow/core/kernels/image/resize_bilinear_op.cc): along the row first,
    `left + (right - left) * share`, each operation rounded.

    The four neighbours are gathered by OpenCV's remap at whole positions, which copies levels and computes nothing; a
    position in the border reads `pad_value`, so the padded picture is never made.
    """
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    anything: Any = None
    maps, across, down = _plan(pixels.shape[0], pixels.shape[1], size.height, size.width, channels, border)
    value = (pad_value,) * 3
    result = np.empty((size.height, size.width * channels), np.float32)
    for start in range(0, size.height, _BLOCK_ROWS):
        rows = slice(start, min(start + _BLOCK_ROWS, size.height))
        near = [
            cv2.remap(pixels, m[rows], anything, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=value)
            for m in maps
        ]
        top, bottom = (_along(near[i], near[i + 1], across) for i in (0, 2))
        out = result[rows]
        np.subtract(bottom, top, out=out)
        np.multiply(out, down[rows], out=out)
        np.add(out, top, out=out)
    return result.reshape(size.height, size.width, *pixels.shape[2:])


def _along(left: Array, right: Array, share: FloatArray) -> FloatArray:
    """`left + (right - left) * share` of uint8 neighbours, as float32 `[rows, columns x channels]`."""
    rows = left.shape[0]
    left = left.reshape(rows, -1)
    result = np.asarray(cv2.subtract(right.reshape(rows, -1), left, dtype=cv2.CV_32F), np.float32)
    np.multiply(result, share, out=result)
    return np.asarray(cv2.add(result, left, dst=result, dtype=cv2.CV_32F), np.float32)


@lru_cache(maxsize=4)
def _plan(
    height: int, width: int, rows: int, columns: int, channels: int, border: Border
) -> tuple[tuple[Array, ...], FloatArray, FloatArray]:
    """Where the four neighbours of every result pixel lie (int16 x, y: top left, top right, bottom left, bottom right)
    and the shares `[1, columns x channels]` and `[rows, 1]`. Sides are at most 16 384, so int16 holds them."""
    left, top, right, bottom = border
    upper, lower, down = _positions(height + top + bottom, rows)
    before, after, across = _positions(width + left + right, columns)

    def grid(x: IntArray, y: IntArray) -> Array:
        made = np.empty((rows, columns, 2), np.int16)
        made[:, :, 0], made[:, :, 1] = x - left, (y - top)[:, None]
        return made

    maps = tuple(grid(x, y) for y in (upper, lower) for x in (before, after))
    return maps, np.repeat(across, channels)[None], down[:, None]


def _positions(source: int, target: int) -> tuple[IntArray, IntArray, FloatArray]:
    position = np.arange(target, dtype=np.float32) * (np.float32(source) / np.float32(target))
    lower = np.minimum(np.floor(position).astype(np.int64), source - 1)
    return lower, np.minimum(lower + 1, source - 1), position - lower.astype(np.float32)
