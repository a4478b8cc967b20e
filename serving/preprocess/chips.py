"""Face chips: five landmarks of a face moved onto an embedder's template by a similarity, and the pixels with them.

Landmarks are `[5, 2]` in source pixels: left eye, right eye, nose tip, left and right corner of the mouth, left and
right as they lie in the picture. Sources: Umeyama 1991 (least-squares similarity); dlib `get_face_chip_details` (mean
face shape and 0.25 padding of its 150x150 chips; eyes are the mean of six points each); the 112x112 template that
ArcFace (arXiv:1801.07698) and the models after it were trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from serving.types import Array, FloatArray, PixelArray

POINTS = 5
# The margin around a detector's box where it gives no landmarks: chips hold more than the face's middle.
BOX_MARGIN = 0.15


@dataclass(frozen=True, slots=True)
class Template:
    """Where an embedder wants the five landmarks in its square input. points: float64 [5, 2] in chip pixels."""

    name: str
    size: int
    points: tuple[tuple[float, float], ...]

    def array(self) -> Array:
        """float64 [5, 2]."""
        return np.array(self.points, np.float64)


def _dlib(size: int = 150, padding: float = 0.25) -> tuple[tuple[float, float], ...]:
    """dlib's mean face (51 points in a unit box) at the eyes' centres, nose tip and mouth corners, inside the chip."""
    mean = (
        (0.225490, 0.215990),
        (0.754764, 0.215990),
        (0.490127, 0.515625),
        (0.254149, 0.780233),
        (0.726104, 0.780233),
    )
    return tuple(((padding + x) / (2 * padding + 1) * size, (padding + y) / (2 * padding + 1) * size) for x, y in mean)


_ARCFACE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
TEMPLATES: Mapping[str, Template] = {
    "dlib_150": Template("dlib_150", 150, _dlib()),
    "arcface_112": Template("arcface_112", 112, _ARCFACE),
}


def similarity(source: Array, target: Array) -> Array:
    """Rotation, one scale and translation that move `source` [n, 2] closest to `target` [n, 2]: float64 [2, 3].

    Never a mirror image. Points that all lie in one place have no scale: ValueError.
    """
    a, b = np.asarray(source, np.float64), np.asarray(target, np.float64)
    centre_a, centre_b = a.mean(axis=0), b.mean(axis=0)
    a, b = a - centre_a, b - centre_b
    spread = float((a**2).sum())
    if not np.isfinite(spread) or spread <= 1e-9:
        raise ValueError(f"similarity: expected {len(a)} different points, got a spread of {spread}")
    u, s, vt = np.linalg.svd(b.T @ a)
    sign = np.array([1.0, 1.0 if np.linalg.det(u @ vt) > 0 else -1.0])
    turn = (u * sign) @ vt * (float((s * sign).sum()) / spread)
    return np.column_stack([turn, centre_b - turn @ centre_a])


def chip(rgb: PixelArray, landmarks: FloatArray, template: Template) -> PixelArray:
    """RGB uint8 [size, size, 3]: the face upright, its landmarks on the template's; black outside the picture."""
    return warp(rgb, similarity(landmarks, template.array()), template.size)


def box_chip(rgb: PixelArray, xyxy: FloatArray, template: Template, margin: float = BOX_MARGIN) -> PixelArray:
    """The same where only a box is known: a square about its centre, `margin` of its longer side added on each side."""
    x1, y1, x2, y2 = (float(v) for v in xyxy)
    side = max(x2 - x1, y2 - y1) * (1 + 2 * margin)
    if side <= 0:
        raise ValueError(f"box_chip: expected a box with an area, got {xyxy.tolist()}")
    scale = template.size / side
    left, top = (x1 + x2 - side) / 2, (y1 + y2 - side) / 2
    return warp(rgb, np.array([[scale, 0.0, -left * scale], [0.0, scale, -top * scale]]), template.size)


def warp(rgb: PixelArray, matrix: Array, size: int) -> PixelArray:
    """`matrix` [2, 3] moves source pixels to chip pixels. A large face is averaged before it is sampled."""
    shrink = 1.0 / max(1e-9, float(np.hypot(matrix[0, 0], matrix[1, 0])))
    if shrink > 2.0:
        factor = int(shrink)
        height, width = rgb.shape[0] // factor, rgb.shape[1] // factor
        if height and width:
            whole = rgb[: height * factor, : width * factor]
            rgb = np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
            # Pixel centres: source = small * factor + (factor - 1) / 2.
            grow = np.array([[factor, 0.0, (factor - 1) / 2], [0.0, factor, (factor - 1) / 2], [0.0, 0.0, 1.0]])
            matrix = matrix @ grow
    warped = cv2.warpAffine(rgb, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.ascontiguousarray(warped, np.uint8)
