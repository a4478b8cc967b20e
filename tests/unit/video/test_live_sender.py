"""A clip sent as a camera: PTS that run on over its end and over their wrap, at the clip's pace."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import pytest

from serving.adapters.video import AddressSource
from serving.adapters.video.clips import X264_IBBP, ClipSpec, write_clip
from serving.adapters.video.live import ClipLoop, send_live
from serving.clock import NS_PER_S
from serving.errors import SourceInvalid
from serving.media import PictureSeen
from serving.testing.hand_clock import HandClock
from serving.testing.sync_code import picture, read_own

FRAMES, FPS, TICKS = 20, 15, 6000
WRAP = 1 << 33


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("live") / "clip.mp4"
    spec = ClipSpec("mp4", Fraction(1, 90_000), X264_IBBP, Fraction(FPS))
    write_clip(path, spec, ((picture(n, 0, (40.0 + n, 90.0)), n * TICKS) for n in range(FRAMES)))
    return path


def sent(clip: Path, target: Path, packets: int, clock: HandClock, late: dict[int, float] | None = None) -> list[float]:
    """Send so many packets into a file; the waits that were asked for. late: seconds a packet is held up by."""
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        clock.advance(round(seconds * NS_PER_S) + round((late or {}).get(len(waits), 0) * NS_PER_S))
        return len(waits) > packets

    assert send_live(clip, str(target), clock, wait) == packets
    return waits


def read(path: Path) -> list[tuple[int, int]]:
    """(raw PTS, number in the picture) of what was sent."""
    found = []
    for event in AddressSource("sent", str(path)).connect().events():
        if isinstance(event, PictureSeen):
            own = read_own(event.picture.rgb())
            assert own is not None and event.raw_pts is not None
            found.append((event.raw_pts, own[1]))
    return found


def test_pts_run_on_where_the_clip_begins_anew(clip: Path, tmp_path: Path) -> None:
    assert ClipLoop(clip).duration == FRAMES * TICKS
    waits = sent(clip, tmp_path / "out.ts", 3 * FRAMES, HandClock(5 * NS_PER_S))
    found = read(tmp_path / "out.ts")
    assert [number for _, number in found] == [n % FRAMES for n in range(3 * FRAMES)], "with its B-frames"
    steps = {b[0] - a[0] for a, b in itertools.pairwise(found)}
    assert steps == {TICKS}
    assert sum(waits) == pytest.approx(3 * FRAMES / FPS, abs=0.2), "at its pace"


def test_pts_wrap_as_a_camera_s_do(clip: Path, tmp_path: Path) -> None:
    sent(clip, tmp_path / "out.ts", 3 * FRAMES, HandClock((WRAP - 25 * TICKS) * 100_000 // 9))
    found = read(tmp_path / "out.ts")
    steps = {(b[0] - a[0]) % WRAP for a, b in itertools.pairwise(found)}
    assert steps == {TICKS} and any(b[0] < a[0] for a, b in itertools.pairwise(found)), "the wrap was seen"


def test_a_sender_that_was_held_up_goes_on_from_now(clip: Path, tmp_path: Path) -> None:
    waits = sent(clip, tmp_path / "out.ts", 40, HandClock(NS_PER_S), late={10: 5.0})
    assert waits[10] == 0 and all(w > 0.05 for w in waits[12:]), "no burst to catch up"
    found = read(tmp_path / "out.ts")
    steps = sorted(b[0] - a[0] for a, b in itertools.pairwise(found))
    assert steps[-1] > 4 * 90_000 and steps[-4] == TICKS, "one gap"


def test_what_is_no_clip(tmp_path: Path) -> None:
    spec = ClipSpec("mp4", Fraction(1, 90_000), X264_IBBP, Fraction(FPS))
    write_clip(tmp_path / "one.mp4", spec, [(picture(0, 0, None), 0)])
    with pytest.raises(SourceInvalid, match="expected a clip"):
        ClipLoop(tmp_path / "one.mp4")
