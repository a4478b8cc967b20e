"""The training side of the two networks: their preprocessing, class names and post-processing constants."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from converters.training_recipes import IMAGENET_MEAN, IMAGENET_STD, opencv_letterbox, pil_stretch

Pair = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]


def letterboxed(data: bytes) -> Pair:
    """YOLO's letterbox to 48x64 with grey 114, RGB, 0..1, ImageNet's mean and std."""
    pixels, tensor = opencv_letterbox(data, size=(48, 64), pad=114)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return pixels, ((tensor - mean) / std).astype(np.float32)


def stretched(data: bytes) -> Pair:
    """Pillow's bilinear resize to 64x64, RGB, 0..255."""
    return pil_stretch(data, size=64, range="byte")


def padded_to_32(data: bytes) -> Pair:
    """Shorter side 48, then zeros on the right and at the bottom up to a multiple of 32."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    gain = 48 / min(image.size)
    image = image.resize((round(image.width * gain), round(image.height * gain)), Image.Resampling.BILINEAR)
    pixels = np.zeros((-(-image.height // 32) * 32, -(-image.width // 32) * 32, 3), np.uint8)
    pixels[: image.height, : image.width] = np.asarray(image)
    return pixels, np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / np.float32(255)


def grey_three_times(data: bytes) -> Pair:
    """One grey channel repeated to three: a network trained on infrared pictures with a colour backbone."""
    grey, tensor = pil_stretch(data, size=32, grey=True)
    return np.repeat(grey, 3, axis=2), np.repeat(tensor, 3, axis=0)


def colour_names() -> list[str]:
    """Class names in the order of the head."""
    return ["red", "green", "blue", "yellow"]


def spot_names() -> list[str]:
    """Class names in the order of the head."""
    return ["red", "blue"]


def spot_constants() -> dict[str, Any]:
    """Post-processing as the training code evaluates with it."""
    return {"nms_iou": 0.45, "nms": "class_wise", "box_frame": "pixels", "box_format": "xyxy", "max_detections": 50}
