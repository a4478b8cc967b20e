"""Codes in pictures: what is written is read back, through an encoder too, and what is spoilt is not believed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from serving.adapters.video import AddressSource
from serving.adapters.video.clips import ClipSpec, write_clip
from serving.frames import AlignedFrame, Frame, Origin, Overlay
from serving.media import PictureSeen
from serving.testing import sync_code
from serving.testing.sync_code import PATHS, Drawn, draw_strips, find_square, picture, read_drawn, read_own
from serving.testing.ts_surgery import Stamps, restamp
from serving.types import Detections, PixelArray


def shown(box: list[float] | None, origin: Origin = Origin.MEASURED, index: int = 7) -> AlignedFrame:
    frame = Frame("s", 1, 0, 0, 0, Fraction(1, 30), ("code", "other"), 0)
    found = Detections.empty()
    if box is not None:
        arrays = np.array([box], np.float32), np.array([0.9], np.float32)
        found = Detections(*arrays, np.array([index], np.int64), np.array([2], np.int64))
    overlays = tuple(Overlay(p, None, found, np.full(len(found), origin.value, np.uint8)) for p in frame.pipelines)
    return AlignedFrame(frame, 0, overlays, 0)


@pytest.mark.parametrize("index", [0, 1, 255, 65535])
def test_a_number_is_read_back(index: int) -> None:
    assert read_own(picture(index, 9, (100, 90))) == (9, index)


def test_a_spoilt_code_is_not_believed() -> None:
    rgb = picture(300, 9, (100, 90))
    for block in range(48):
        spoilt = rgb.copy()
        y, x = block // 32 * 10, block % 32 * 10
        spoilt[y : y + 10, x : x + 10] = 255 - spoilt[y : y + 10, x : x + 10]
        assert read_own(spoilt) is None, block


@pytest.mark.parametrize("origin", Origin)
def test_what_was_drawn_is_read_back(origin: Origin) -> None:
    rgb = draw_strips(picture(8, 1, (100, 90)), shown([88.25, 78.5, 112.25, 102.5], origin), ("code", "other"))
    for strip in (0, 1):
        assert read_drawn(rgb, strip) == Drawn(origin, 2, 7, 100.25, 90.5)
    assert read_own(rgb) == (1, 8)


def test_nothing_drawn_and_unreadable_differ() -> None:
    rgb = draw_strips(picture(8, 1, (100, 90)), shown(None), ("code", "other"))
    assert read_drawn(rgb, 0) is None
    with pytest.raises(ValueError, match="strip 0"):
        read_drawn(picture(8, 1, (100, 90)), 0)


@pytest.mark.parametrize("path", PATHS)
def test_codes_and_square_survive_an_encoder(tmp_path: Path, path: str) -> None:
    def clip():  # type: ignore[no-untyped-def]
        for n in range(60):
            yield picture(n, 5, PATHS[path](n / 10)), 3000 * n

    write_clip(tmp_path / "c.mp4", ClipSpec("mp4", Fraction(1, 90_000)), clip())
    events = AddressSource("s", str(tmp_path / "c.mp4")).connect().events()
    found = [e.picture.rgb() for e in events if isinstance(e, PictureSeen)]
    assert [read_own(rgb) for rgb in found] == [(5, n) for n in range(60)]
    for n, rgb in enumerate(found):
        assert np.abs(_centre(rgb) - PATHS[path](n / 10)).max() < 0.35


def test_paths_stay_in_their_field() -> None:
    top, bottom = sync_code.FIELD
    for path in PATHS.values():
        for ms in range(0, 600_000, 70):
            x, y = path(ms / 1000)
            assert 14 <= x <= sync_code.WIDTH - 14 and top + 12 <= y <= bottom - 12


def test_stamps_are_rewritten_and_only_they(tmp_path: Path) -> None:
    spec = ClipSpec("mpegts", Fraction(1, 90_000))
    write_clip(tmp_path / "c.ts", spec, ((picture(n, 5, (100, 90)), 3000 * n) for n in range(20)))
    data = (tmp_path / "c.ts").read_bytes()
    seen: list[Stamps] = []

    def keep(number: int, stamps: Stamps) -> Stamps:
        seen.append(stamps)
        return stamps

    assert restamp(data, keep) == data and len(seen) == 20 and sorted(s.pts or 0 for s in seen)[0] == 3000
    moved = restamp(data, lambda n, s: Stamps((s.pts or 0) + (1 << 32), s.dts))
    seen.clear()
    restamp(moved, keep)
    assert min(s.pts or 0 for s in seen) == 3000 + (1 << 32) and len(moved) == len(data)


def _centre(rgb: PixelArray) -> np.ndarray:  # type: ignore[type-arg]
    box = find_square(rgb)
    assert box is not None
    return (box[:2] + box[2:]) / 2
