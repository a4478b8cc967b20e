"""Small clips with exact PTS, made once a session."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from serving.adapters.video.clips import ClipSpec, write_clip
from serving.adapters.video.options import ReaderOptions
from serving.adapters.video.source import AddressSource
from serving.media import MediaEvent, PictureSeen

TB90 = Fraction(1, 90_000)


def pictures(pts: list[int], width: int = 96, height: int = 64):  # type: ignore[no-untyped-def]
    """Grey pictures, each a little brighter, so that a picture tells its number."""
    for number, stamp in enumerate(pts):
        yield np.full((height, width, 3), 20 + 4 * number % 200, np.uint8), stamp


@pytest.fixture
def clip(tmp_path: Path) -> Callable[..., Path]:
    """clip(name, pts, ClipSpec(...)) -> path."""

    def make(name: str, pts: list[int], spec: ClipSpec, width: int = 96, height: int = 64) -> Path:
        path = tmp_path / name
        write_clip(path, spec, pictures(pts, width, height))
        return path

    return make


def read(path: Path | str, **options: object) -> list[MediaEvent]:
    """All events of one connection."""
    source = AddressSource("s", str(path), ReaderOptions(**options))  # type: ignore[arg-type]
    return list(source.connect().events())


def raw_pts(events: list[MediaEvent]) -> list[int | None]:
    """The PTS of the pictures, in the order they came out."""
    return [event.raw_pts for event in events if isinstance(event, PictureSeen)]
