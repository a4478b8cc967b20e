"""The two sample sources of `lockstep up`: real pedestrians, and a coded clip that carries its own numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from serving.adapters.video import AddressSource
from serving.adapters.video.clips import ClipSpec, write_clip
from serving.media import PictureSeen
from serving.testing.sync_code import PATHS, picture
from serving.types import PixelArray

ROOT = Path(__file__).resolve().parents[2]
PEDESTRIANS = ROOT / "models" / "samples" / "pedestrians.mp4"
CODED_FPS, CODED_FRAMES = 15, 450
PEDESTRIAN_FPS, PEDESTRIAN_SIZE = 10, (384, 288)
# B-frames between anchors, closed groups of a second: whoever comes later begins at the next one
X264 = "bframes=2:b-adapt=0:b-pyramid=none:scenecut=0:keyint={0}:min-keyint={0}:open-gop=0:repeat-headers=1"


@dataclass(frozen=True, slots=True)
class Sample:
    """A source as `lockstep up` registers it."""

    source_id: str
    model: str
    every: int
    delay_ms: int
    clip: str
    captions: bool = True
    track: str = ""


SAMPLES = (
    # every second picture is analysed: only what is tracked can be drawn in between, and does not flicker
    Sample("pedestrians", "person_ssdlite", 2, 600, "pedestrians.mp4", track="bytetrack"),
    Sample("coded", "sync_code", 1, 600, "coded.mp4", captions=False),  # its numbers stand where a banner would
)


def make_clips(folder: Path) -> None:
    """Write both clips where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, fps, pictures in (
        ("coded.mp4", CODED_FPS, coded_pictures),
        ("pedestrians.mp4", PEDESTRIAN_FPS, pedestrian_pictures),
    ):
        if not (folder / name).is_file():
            aside = folder / f"partial-{name}"
            spec = ClipSpec("mp4", Fraction(1, 90_000), X264.format(fps), Fraction(fps))
            write_clip(aside, spec, ((rgb, n * 90_000 // fps) for n, rgb in enumerate(pictures())))
            aside.rename(folder / name)


def coded_pictures() -> Iterator[PixelArray]:
    """Picture n carries the number n; the square goes from side to side."""
    for number in range(CODED_FRAMES):
        yield picture(number, 0, PATHS["linear"](number / CODED_FPS))


def pedestrian_pictures() -> Iterator[PixelArray]:
    """The real clip, made smaller."""
    for event in AddressSource("pedestrians", str(PEDESTRIANS)).connect().events():
        if isinstance(event, PictureSeen):
            yield np.asarray(cv2.resize(event.picture.rgb(), PEDESTRIAN_SIZE, interpolation=cv2.INTER_AREA), np.uint8)
