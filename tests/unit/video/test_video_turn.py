"""Display matrices: a picture is turned and mirrored as it is shown."""

from __future__ import annotations

import struct
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from video_helpers import read  # type: ignore[import-not-found]

from serving.media import PictureSeen, StreamOpened
from serving.types import PixelArray

# a b c d of the matrix: p, q of the picture go to ap + cq, bp + dq; and where its upper left corner is shown.
MATRICES = {
    "as_it_is": ((1, 0, 0, 1), ("top", "left")),
    "left_right": ((-1, 0, 0, 1), ("top", "right")),
    "upside_down": ((1, 0, 0, -1), ("bottom", "left")),
    "half": ((-1, 0, 0, -1), ("bottom", "right")),
    "clockwise": ((0, 1, -1, 0), ("top", "right")),
    "counterclockwise": ((0, -1, 1, 0), ("bottom", "left")),
    "transposed": ((0, 1, 1, 0), ("top", "left")),
    "transposed_the_other_way": ((0, -1, -1, 0), ("bottom", "right")),
}


def write(path: Path, numbers: tuple[int, int, int, int]) -> None:
    """Five pictures, red in the upper left quarter, blue in the upper right one."""
    rgb = np.zeros((64, 96, 3), np.uint8)
    rgb[:32, :48], rgb[:32, 48:] = (220, 30, 30), (30, 30, 220)
    a, b, c, d = (number << 16 for number in numbers)
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=Fraction(30), width=96, height=64, pix_fmt="yuv420p")
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for _ in range(5):
            for packet in stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)


def first_of(path: Path) -> tuple[PixelArray, tuple[int, int]]:
    """The first picture, and the size that was told before it."""
    events = read(path)
    info = next(e.info for e in events if isinstance(e, StreamOpened))
    return next(e.picture.rgb() for e in events if isinstance(e, PictureSeen)), (info.width, info.height)


@pytest.mark.parametrize("kind", MATRICES)
def test_the_upper_left_corner_is_where_the_matrix_puts_it(tmp_path: Path, kind: str) -> None:
    numbers, corner = MATRICES[kind]
    write(tmp_path / "c.mp4", numbers)
    rgb, size = first_of(tmp_path / "c.mp4")
    turned = numbers[0] == 0
    assert rgb.shape[1::-1] == size == ((64, 96) if turned else (96, 64))
    red = {(v, h): _corner(rgb, v, h)[0] > 150 for v in ("top", "bottom") for h in ("left", "right")}
    assert [place for place, seen in red.items() if seen] == [corner]
    beside = (_other(corner[0]), corner[1]) if turned else (corner[0], _other(corner[1]))
    assert _corner(rgb, *beside)[2] > 150, "and its right neighbour lies beside it, as the matrix has it"


@pytest.mark.needs("ffmpeg")
@pytest.mark.parametrize("kind", MATRICES)
def test_mirrors_are_those_of_ffmpeg(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "c.mp4", MATRICES[kind][0])
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "c.mp4", "-frames:v", "1", tmp_path / "c.png"]
    subprocess.run(command, check=True)
    wanted = cv2.cvtColor(cv2.imread(str(tmp_path / "c.png")), cv2.COLOR_BGR2RGB)
    found, _ = first_of(tmp_path / "c.mp4")
    assert found.shape == wanted.shape and np.abs(found.astype(int) - wanted).mean() < 4


def test_a_photo_is_turned_by_its_exif(tmp_path: Path) -> None:
    """Such a picture carries side data that PyAV has no name for."""
    rgb = np.zeros((64, 96, 3), np.uint8)
    rgb[:32, :48] = (220, 30, 30)
    photo = cv2.imencode(".jpg", rgb[:, :, ::-1])[1].tobytes()
    entry = struct.pack(">HHHIHH", 1, 0x112, 3, 1, 6, 0)  # one entry: orientation, a short, one of it, 6
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + entry + bytes(4)
    (tmp_path / "p.jpg").write_bytes(photo[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + photo[2:])
    shown, size = first_of(tmp_path)
    assert shown.shape == (96, 64, 3) and size == (64, 96) and _corner(shown, "top", "right")[0] > 150


def _corner(rgb: PixelArray, vertical: str, horizontal: str) -> PixelArray:
    return rgb[5 if vertical == "top" else -5, 5 if horizontal == "left" else -5]


def _other(side: str) -> str:
    return {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}[side]
