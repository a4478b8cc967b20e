"""How a picture moved: the homography between two pictures of one plane, or of one place from a camera that only turns.

SIFT (Lowe 2004), the ratio test, and MAGSAC++ (Barath et al. 2020) through OpenCV's USAC.
"""

from __future__ import annotations

import cv2
import numpy as np

from serving.pitch.model import Matrix
from serving.types import PixelArray

RATIO = 0.75
LEAST_MATCHES, LEAST_SHARE = 25, 0.35
WIDEST = 960


def between(first: PixelArray, second: PixelArray, within: float = 2.0) -> tuple[Matrix, int] | None:
    """Pixels of `first` -> pixels of `second` (uint8 [h, w] or RGB [h, w, 3]) and its inliers; None where too few
    agree.

    within: pixels that an inlier may be off.
    """
    scale = min(1.0, WIDEST / first.shape[1])
    finder = cv2.SIFT.create(nfeatures=4000)
    (points, look), (others, theirs) = (finder.detectAndCompute(_grey(one, scale), None) for one in (first, second))
    if look is None or theirs is None or min(len(look), len(theirs)) < LEAST_MATCHES:
        return None
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(look, theirs, k=2)
    good = [a for a, b in pairs if a.distance < RATIO * b.distance]
    if len(good) < LEAST_MATCHES:
        return None
    here = np.array([points[match.queryIdx].pt for match in good], np.float32)
    there = np.array([others[match.trainIdx].pt for match in good], np.float32)
    matrix, mask = cv2.findHomography(here, there, cv2.USAC_MAGSAC, within, maxIters=10_000, confidence=0.9999)
    count = int(mask.sum()) if mask is not None else 0
    if matrix is None or count < max(LEAST_MATCHES, LEAST_SHARE * len(good)):
        return None
    size = np.diag([scale, scale, 1.0])
    return np.linalg.inv(size) @ matrix @ size, count


def _grey(picture: PixelArray, scale: float) -> PixelArray:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) if picture.ndim == 3 else picture
    small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else grey
    return np.asarray(small, np.uint8)
