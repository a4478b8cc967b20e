"""The reference path: pixels -> the network's input, by the arithmetic of docs/preprocessing.md and nothing else.

Order: colour -> resize rule -> pad -> range -> mean/std -> layout. Everything that a certificate compares comes from
here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

from serving.errors import BodyInvalid
from serving.preprocess.geometry import Placement, place
from serving.preprocess.kernels import resize
from serving.preprocess.limits import DecodeLimits, check_size
from serving.spec import ColourOrder, Kernel, PreprocessSpec, ValueRange
from serving.types import Array, FloatArray, ImageSize, ImageTransform, PixelArray

_FRAME_LIMITS = DecodeLimits()


@dataclass(frozen=True, slots=True)
class Prepared:
    """One picture, ready for a network.

    pixels: uint8 `[h, w, c]` in the network's colour order, before range and normalisation; tensor: float32,
    `[c, h, w]` or `[h, w, c]` by the spec's layout, without a batch axis; transform: the way back for boxes.
    """

    pixels: PixelArray
    tensor: FloatArray
    transform: ImageTransform

    @property
    def sha256(self) -> str:
        """SHA-256 of `pixels`, row by row, in hex."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels).data).hexdigest()


def prepare(frame: PixelArray, spec: PreprocessSpec) -> Prepared:
    """An upright RGB uint8 `[h, w, 3]` picture as the network's input.

    Raises BodyInvalid (not such an array), ImageTooLarge, ImageUnsupported (a size that the model does not take).
    """
    size = frame_size(frame)
    placement = place(size, spec)
    coloured = to_colour(frame, spec.colour, spec.kernel)
    content = resize(coloured, placement.resized, spec.kernel, placement.border, spec.pad_value)
    return finish(on_plane(content, placement, spec.pad_value), placement, spec)


def frame_size(frame: Array) -> ImageSize:
    """Size of a picture array. Raises BodyInvalid for another dtype or shape, ImageTooLarge over the limits."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise BodyInvalid(f"frame: expected UINT8 [height, width, 3] in RGB, got {frame.dtype} {list(frame.shape)}")
    check_size(frame.shape[1], frame.shape[0], _FRAME_LIMITS)
    return ImageSize(frame.shape[1], frame.shape[0])


def to_colour(frame: PixelArray, colour: ColourOrder, kernel: Kernel) -> PixelArray:
    """RGB `[h, w, 3]` -> the same, BGR, or one grey plane `[h, w]` (grey and pseudo_grey).

    Grey is what the library of the kernel makes of RGB: Pillow's `L` (ITU-R 601, 16-bit weights) or OpenCV's.
    """
    if colour == "rgb":
        return frame
    if colour == "bgr":
        return np.ascontiguousarray(frame[:, :, ::-1])
    if kernel.startswith("cv2_"):
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)
    return np.asarray(Image.fromarray(frame).convert("L"))


def on_plane(content: Array, placement: Placement, pad_value: int) -> Array:
    """The resized picture cropped and padded to the network's plane; same dtype and number of axes."""
    height, width = placement.plane.height, placement.plane.width
    if content.shape[:2] == (height, width) and placement.offset == (0, 0):
        return content
    plane = np.full((height, width, *content.shape[2:]), pad_value, content.dtype)
    (x, y), (rows, columns) = placement.offset, content.shape[:2]
    to_y, to_x = slice(max(y, 0), min(y + rows, height)), slice(max(x, 0), min(x + columns, width))
    plane[to_y, to_x] = content[to_y.start - y : to_y.stop - y, to_x.start - x : to_x.stop - x]
    return plane


def finish(plane: Array, placement: Placement, spec: PreprocessSpec) -> Prepared:
    """Channels, range, mean/std and layout of a filled plane."""
    if plane.ndim == 2:
        plane = np.repeat(plane[:, :, None], 3, axis=2) if spec.colour == "pseudo_grey" else plane[:, :, None]
    if plane.dtype == np.uint8:
        pixels = np.ascontiguousarray(plane)
        return Prepared(pixels, _tensor_of_pixels(pixels, spec), placement.transform)
    # A kernel with float results keeps them in the tensor, as the training graph did; `pixels` are them, rounded.
    pixels = np.ascontiguousarray(np.rint(plane).astype(np.uint8))
    values = normalise(plane.astype(np.float32), spec.range, spec.mean, spec.std)
    tensor = values.transpose(2, 0, 1) if spec.layout == "nchw" else values
    return Prepared(pixels, np.ascontiguousarray(tensor), placement.transform)


def normalise(
    values: FloatArray, value_range: ValueRange, mean: tuple[float, ...], std: tuple[float, ...]
) -> FloatArray:
    """Range, then `(x - mean) / std`, in float32; the channel axis is the last one.

    unit: x / 255; byte: x; signed: x * (2 / 255) - 1. As torchvision (ToTensor, Normalize) and TensorFlow do them.
    """
    result = values.astype(np.float32)
    if value_range == "unit":
        result /= np.float32(255)
    elif value_range == "signed":
        result *= np.float32(2 / 255)
        result -= np.float32(1)
    if mean:
        result -= np.asarray(mean, np.float32)
    if std:
        result /= np.asarray(std, np.float32)
    return result


def _tensor_of_pixels(pixels: PixelArray, spec: PreprocessSpec) -> FloatArray:
    """The 256 values that a channel can take, looked up: the same floats as the arithmetic, many times faster."""
    table = value_table(spec)
    height, width, channels = pixels.shape
    if spec.layout == "nhwc":
        return np.asarray(cv2.LUT(pixels, table[None]), np.float32).reshape(height, width, channels)
    tensor = np.empty((channels, height, width), np.float32)
    for channel in range(channels):
        plane = np.ascontiguousarray(pixels[:, :, channel])
        tensor[channel] = cv2.LUT(plane, np.ascontiguousarray(table[:, channel])).reshape(height, width)
    return tensor


def value_table(spec: PreprocessSpec) -> FloatArray:
    """float32 `[256, c]`, read-only: what each level of each channel becomes by range, mean and std."""
    return _table(spec.range, spec.mean, spec.std, spec.channels)


@lru_cache(maxsize=64)
def _table(value_range: ValueRange, mean: tuple[float, ...], std: tuple[float, ...], channels: int) -> FloatArray:
    levels = np.repeat(np.arange(256, dtype=np.float32)[:, None], channels, axis=1)
    table = normalise(levels, value_range, mean, std)
    table.setflags(write=False)
    return table
