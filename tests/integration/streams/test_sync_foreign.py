"""A file that another program mixed: right boxes are found exact, boxes of the picture before are found late by one."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from stream_helpers import document  # type: ignore[import-not-found]

from serving.adapters.video import AddressSource, Mp4Writer
from serving.errors import ParameterInvalid, StorageFailed
from serving.media import OutputStream, PictureSeen
from serving.streams.drawing import Drawing
from serving.streams.run import run
from serving.streams.source_run import SourceJob
from serving.streams.worker import Infer, Pipeline
from serving.testing.sync_foreign import check_mixed, make_clip
from serving.testing.sync_play import OneTrack, read_picture


def lagging(by: int) -> Infer:
    """A detector whose boxes are those of earlier pictures."""
    before: list[Any] = []

    def infer(requests: Sequence[Any]) -> list[Any]:
        before.extend(read_picture(requests))
        return [before[max(0, len(before) - 1 - by)]]

    return infer


def mixed(clip: Path, out: Path, infer: Infer) -> None:
    pipeline = Pipeline("code", 1, "detection", infer, document, new_tracker=lambda: OneTrack(1))

    def writers(stream: OutputStream) -> list[Mp4Writer]:
        return [Mp4Writer(out, stream)]

    assert run([SourceJob(AddressSource("s", str(clip)), Drawing({}, 0.2, False), writers)], [pipeline]).ok


@pytest.mark.parametrize("by", [0, 1, 3])
def test_boxes_of_earlier_pictures_are_told(tmp_path: Path, by: int) -> None:
    clip, out = tmp_path / "clip.ts", tmp_path / "mixed.mp4"
    assert make_clip("ibbp", clip) == 300
    mixed(clip, out, lagging(by))
    found = check_mixed("ibbp", str(out))
    assert found.pictures == 300 and found.with_box >= 295 and found.unreadable == 0
    late_by = found.to_document()["late_by"]
    assert isinstance(late_by, float) and abs(late_by + by) < 0.15
    assert found.exact == 1.0 if by == 0 else found.exact < 0.1


def test_a_clip_without_boxes_has_none(tmp_path: Path) -> None:
    make_clip("no_b", tmp_path / "new" / "clip.mp4")
    found = check_mixed("no_b", str(tmp_path / "new" / "clip.mp4"))
    assert (found.pictures, found.with_box, found.exact) == (300, 0, 0.0)


def test_what_cannot_be_made(tmp_path: Path) -> None:
    for kind, name in (("reconnect", "a.mp4"), ("nothing", "a.mp4"), ("ibbp", "a.gif")):
        with pytest.raises(ParameterInvalid, match="expected"):
            make_clip(kind, tmp_path / name)
    (tmp_path / "folder.ts").mkdir()
    with pytest.raises(StorageFailed, match="folder.ts: cannot be written"):
        make_clip("ibbp", tmp_path / "folder.ts")


def test_a_clip_keeps_its_rate_in_every_container(tmp_path: Path) -> None:
    for name in ("a.flv", "a.mkv", "a.ts"):
        make_clip("ibbp", tmp_path / name)
        events = AddressSource("s", str(tmp_path / name)).connect().events()
        pts = [e.raw_pts for e in events if isinstance(e, PictureSeen)]
        base = Fraction(1, 90_000) if name.endswith("ts") else Fraction(1, 1000)
        assert len(pts) == 300 and abs((pts[-1] - pts[0]) * base - Fraction(299, 30)) < Fraction(1, 500)
