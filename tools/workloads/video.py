"""A frame of a video file as a picture."""

from __future__ import annotations

import cv2
import numpy as np

from serving.types import PixelArray


def picture_at(video: object, frame: int) -> PixelArray:
    """One frame of a video file as RGB."""
    film = cv2.VideoCapture(str(video))
    film.set(cv2.CAP_PROP_POS_FRAMES, frame)
    good, bgr = film.read()
    film.release()
    if not good:
        raise ValueError(f"{video}: no frame {frame}")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
