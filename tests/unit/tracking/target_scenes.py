"""A clip with exact boxes, and a stand-in for the network: a map of small patches that moves with the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from serving.tracking.siamese import SiameseRules, Target, begin, follow
from serving.types import FloatArray, PixelArray

RULES = SiameseRules()
FRAME_NS = 40_000_000
Box = tuple[float, float, float, float]


def patches(crops: Sequence[PixelArray]) -> FloatArray:
    """Of every cell the 12x12 pixels in the middle of its field, 3x3 colours, contrast about the crop's mean: length 1
    where there is any. As translation-equivariant as the real net, and blind to nothing that these scenes have."""
    return np.stack([_patches(pixels) for pixels in crops])


def _patches(pixels: PixelArray) -> FloatArray:
    values = pixels.astype(np.float32)
    blurred = cv2.blur(values - values.mean(axis=(0, 1)), (4, 4))
    cells = (RULES.search - 33) // RULES.stride + 1
    at = 16 + RULES.stride * np.arange(cells)
    looks = [blurred[np.ix_(at + dy, at + dx)] for dy in (-4, 0, 4) for dx in (-4, 0, 4)]
    found = np.concatenate(looks, axis=2).transpose(2, 0, 1)
    return np.asarray(found / np.sqrt((found**2).sum(axis=0) + 100.0), np.float32)


@dataclass(frozen=True, slots=True)
class Scene:
    """frames: RGB; boxes: of each the truth, None while it is hidden."""

    frames: list[PixelArray]
    boxes: list[Box | None]


def scene(count: int = 60, hidden: range = range(0), grow: float = 0.0, speed: float = 3.0) -> Scene:
    """A checkered disc that moves to the right over noise, `grow` a picture larger; hidden: not drawn in these."""
    rng = np.random.default_rng(5)
    ground = cv2.resize(rng.integers(60, 130, (30, 60, 3)).astype(np.uint8), (480, 240), interpolation=cv2.INTER_CUBIC)
    look = cv2.resize(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8), (60, 60), interpolation=cv2.INTER_NEAREST)
    frames, boxes = [], list[Box | None]()
    for number in range(count):
        side = 40 * (1 + grow) ** number
        x, y = 80 + speed * number, 120 + 20 * np.sin(number / 9)
        frame = np.asarray(ground, np.uint8).copy()
        if number not in hidden:
            warp = np.array([[side / 60, 0, x - side / 2], [0, side / 60, y - side / 2]])
            over = cv2.warpAffine(look, warp, (480, 240), flags=cv2.INTER_LINEAR)
            inside = cv2.warpAffine(np.ones((60, 60), np.float32), warp, (480, 240)) > 0.5
            frame[inside] = over[inside]
        frames.append(frame)
        boxes.append(None if number in hidden else (x - side / 2, y - side / 2, x + side / 2, y + side / 2))
    return Scene(frames, boxes)


def followed_boxes(made: Scene, times: Sequence[int] | None = None, rules: SiameseRules = RULES) -> list[Target]:
    """The target in every picture."""
    at = times or [FRAME_NS * n for n in range(len(made.frames))]
    assert made.boxes[0] is not None
    found = [begin(made.frames[0], made.boxes[0], at[0], patches, rules)]
    for frame, pts_ns in zip(made.frames[1:], at[1:], strict=True):
        found.append(follow(found[-1], frame, pts_ns, patches, rules))
    return found
