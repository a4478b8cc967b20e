"""The clips of the stream benchmark: the shipped pedestrian clip, re-encoded with two B-frames between references."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
SIZES = {"768x576": (768, 576), "720p": (1280, 720)}
IBBP = "bframes=2:b-adapt=0:b-pyramid=none:scenecut=0:keyint=50"


@dataclass(frozen=True, slots=True)
class Clip:
    """A file of `frames` pictures at `fps`."""

    path: Path
    size: str
    frames: int
    fps: Fraction


def opened(path: Path, mode: Literal["r", "w"] = "r") -> Any:
    """A container of PyAV, whose stubs do not know which kind of stream is asked for."""
    return av.open(str(path), mode)


def crop_to(rgb: Pixels, width: int, height: int) -> Pixels:
    """The middle of the picture in the shape of width : height, scaled to that size: nobody is stretched."""
    rows, columns = rgb.shape[:2]
    tall, wide = min(rows, round(columns * height / width)), min(columns, round(rows * width / height))
    top, left = (rows - tall) // 2, (columns - wide) // 2
    part = rgb[top : top + tall, left : left + wide]
    if part.shape[:2] == (height, width):
        return np.ascontiguousarray(part)
    return np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def read_pictures(source: Path) -> tuple[list[Pixels], Fraction]:
    """All pictures of a short clip (RGB) and its frame rate."""
    with opened(source) as container:
        stream = container.streams.video[0]
        rate = Fraction(stream.average_rate)
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)], rate


def write_clip(target: Path, pictures: list[Pixels], size: str, frames: int, fps: Fraction) -> Clip:
    """The first `frames` pictures, from the start again where they run out, as H.264 in MP4 (IBBP, crf 23)."""
    if not pictures or frames < 1:
        raise ValueError(f"write_clip: expected pictures and frames >= 1, got {len(pictures)} and {frames}")
    width, height = SIZES[size]
    options = {"preset": "veryfast", "crf": "23", "x264-params": IBBP}
    with opened(target, "w") as container:
        stream = container.add_stream(
            "libx264", rate=fps, width=width, height=height, pix_fmt="yuv420p", options=options
        )
        for number in range(frames):
            rgb = crop_to(pictures[number % len(pictures)], width, height)
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            picture.pts, picture.time_base = number, 1 / fps
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return Clip(target, size, frames, fps)
