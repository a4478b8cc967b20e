"""Preprocessing by the training side's own code, up to the uint8 pixels before normalising.

Each function takes a file's bytes and the spec's `training_arguments` and gives uint8 `[H, W, C]`, RGB or grey. The
certificate's `preprocess` row compares our contract with it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

PixelArray = npt.NDArray[np.uint8]


def torchvision_eval(data: bytes, arguments: Mapping[str, Any]) -> PixelArray:
    """torchvision's classification evaluation: PIL decode, RGB, `Resize(resize_size)`, `CenterCrop(crop_size)`."""
    from PIL import Image
    from torchvision.transforms import functional

    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture = functional.resize(picture, [int(arguments["resize_size"])], functional.InterpolationMode.BILINEAR)
    return np.asarray(functional.center_crop(picture, [int(arguments["crop_size"])] * 2), np.uint8)


def pil_grey(data: bytes, arguments: Mapping[str, Any]) -> PixelArray:
    """What models/train/digits.py trains on: the grey picture itself, one channel."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("L"), np.uint8)[:, :, None]
