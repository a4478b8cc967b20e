"""`run_streams` to a mixed video: what goes beside it has its times, and recordings joined end to end their sound."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from math import floor
from pathlib import Path

import av
import pytest
from stream_helpers import TB90  # type: ignore[import-not-found]
from test_run_sound import open_model, ran  # type: ignore[import-not-found]

from serving.adapters.video.clips import ClipSpec
from serving.streams.models import OpenedModel
from tests.unit.video.video_helpers import write_with_sound

__all__ = ["open_model"]
Make = Callable[..., Path]
CUE = re.compile(r"(\d+):(\d\d):(\d\d)\.(\d{3}) --> (\d+):(\d\d):(\d\d)\.(\d{3})\n")


def cues_ms(path: Path) -> list[tuple[int, int]]:
    """Begin and end of every cue."""
    rows = [[int(part) for part in cue] for cue in CUE.findall(path.read_text())]
    return [(_ms(*row[:4]), _ms(*row[4:])) for row in rows]


def _ms(hours: int, minutes: int, seconds: int, ms: int) -> int:
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + ms


@pytest.mark.parametrize(
    ("name", "container", "begin"),
    [
        ("c.ts", "mpegts", 126_000),
        ("c.ts", "mpegts", (1 << 33) - 60_000),
        ("c.mp4", "mp4", 0),
        ("c.mp4", "mp4", 45_000),
    ],
    ids=["ts", "wrap", "mp4", "late_mp4"],
)
def test_cues_begin_and_end_with_the_pictures_of_the_mp4(
    clip: Make, tmp_path: Path, open_model: Callable[[str], OpenedModel], name: str, container: str, begin: int
) -> None:
    path = clip(name, [begin + 3000 * n for n in range(40)], ClipSpec(container, TB90))
    assert ran(path, open_model, "eyes", output=tmp_path / "o.mp4", webvtt=tmp_path / "t.vtt").ok
    with av.open(str(tmp_path / "o.mp4")) as file:
        times = [picture.pts * picture.time_base for picture in file.decode(video=0)]
    assert times[0] == begin * TB90 and len(times) == 40
    shown_ms = [floor(1000 * at + Fraction(1, 2)) for at in [*times, times[-1] + 3000 * TB90]]
    assert cues_ms(tmp_path / "t.vtt") == list(pairwise(shown_ms))


def test_cues_without_an_mp4_count_from_zero(
    clip: Make, tmp_path: Path, open_model: Callable[[str], OpenedModel]
) -> None:
    path = clip("c.ts", [126_000 + 3000 * n for n in range(40)], ClipSpec("mpegts", TB90))
    for output in (None, tmp_path / "hls"):
        assert ran(path, open_model, "eyes", output=output, webvtt=tmp_path / "t.vtt").ok
        assert cues_ms(tmp_path / "t.vtt")[:2] == [(0, 33), (33, 67)] and len(cues_ms(tmp_path / "t.vtt")) == 40


def test_recordings_joined_end_to_end_keep_their_sound_and_are_heard_to_the_step(
    tmp_path: Path, open_model: Callable[[str], OpenedModel]
) -> None:
    paths = [write_with_sound(tmp_path / f"{hertz}.ts", Fraction(7, 5), hertz=hertz) for hertz in (440, 880)]
    (tmp_path / "joined.ts").write_bytes(b"".join(path.read_bytes() for path in paths))
    seen, heard = ran(tmp_path / "joined.ts", open_model, "eyes", "ears", output=tmp_path / "o.mp4").sources
    assert (seen.error, seen.epochs, seen.shown) == ("", 2, 100)
    with av.open(str(tmp_path / "o.mp4")) as file:
        pictures = [picture.pts * picture.time_base for picture in file.decode(video=0)]
    with av.open(str(tmp_path / "o.mp4")) as file:
        sound = [packet.pts * packet.time_base for packet in file.demux(audio=0) if packet.size]
    assert pictures == [Fraction(7, 5) + Fraction(n, 25) for n in range(100)]
    assert max(b - a for a, b in pairwise(sound)) < Fraction(1, 20)
    assert abs(sound[0] - pictures[0]) < Fraction(1, 20) and abs(sound[-1] - pictures[-1]) < Fraction(1, 20)
    assert heard.error_code == "source_invalid" and "sound steps back at 2.0 s" in heard.error and heard.balanced
    assert heard.balances["ears"].results == 4
