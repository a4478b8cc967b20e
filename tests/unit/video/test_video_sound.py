"""Sound beside mixed pictures: it keeps its place beside its own pictures, and never costs one of them."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from test_video_output import fill, seconds_of
from video_helpers import TB90, write_with_sound  # type: ignore[import-not-found]

from serving.adapters.video import Mp4Writer, ReaderOptions
from serving.adapters.video.heard import SoundTrack
from serving.adapters.video.sound import SoundCopy
from serving.clock import SystemClock
from serving.media import OutputStream, OutputSummary

BEGIN_S = Fraction(7, 5)
TICKS = [126_000 + 3600 * n for n in range(50)]


def sounds(path: Path, header: int = 0) -> list[tuple[Fraction, bytes]]:
    """Time and content of every packet of sound. header: bytes before the content (ADTS in transport streams)."""
    with av.open(str(path)) as file:
        found = [packet for packet in file.demux(audio=0) if packet.size]
        return [(packet.pts * packet.time_base, bytes(packet)[header:]) for packet in found]


@pytest.fixture
def joined(tmp_path: Path) -> list[Path]:
    """Two recordings that both begin at 1.4 s, and both in one file."""
    paths = [write_with_sound(tmp_path / f"{hertz}.ts", BEGIN_S, hertz=hertz) for hertz in (440, 880)]
    (tmp_path / "joined.ts").write_bytes(b"".join(path.read_bytes() for path in paths))
    return [*paths, tmp_path / "joined.ts"]


def mixed(path: Path, sound_from: Path, epochs: int, first: int = TICKS[0]) -> OutputSummary:
    """`epochs` times the pictures of one recording, with the sound of a file."""
    writer = Mp4Writer(path, OutputStream(96, 64, TB90, first), sound_from=str(sound_from))
    for epoch in range(epochs):
        ticks = [first - TICKS[0] + tick for tick in TICKS]
        fill(writer, ticks, TB90, epoch=epoch + 1, out_ns=2 * epoch * 10**9, fresh=epoch > 0)
    return writer.close()


def test_sound_of_joined_recordings_stays_beside_their_pictures(tmp_path: Path, joined: list[Path]) -> None:
    summary = mixed(tmp_path / "o.mp4", joined[2], epochs=2)
    first, second, found = sounds(joined[0], 7), sounds(joined[1], 7), sounds(tmp_path / "o.mp4")
    later = [(at + 2, data) for at, data in second if at + 2 > first[-1][0]]
    assert [data for _, data in found] == [data for _, data in first + later] and len(later) > 80
    assert all(abs(a - b) < Fraction(1, 40_000) for (a, _), (b, _) in zip(found, first + later, strict=True))
    overlap = len(second) - len(later)
    assert summary.notes == ((f"{overlap} packets of sound left out: their times step back",) if overlap else ())
    assert summary.frames == 100 and len(seconds_of(tmp_path / "o.mp4")) == 100


def test_sound_that_steps_back_beside_pictures_that_do_not_is_left_out_and_counted(
    tmp_path: Path, joined: list[Path]
) -> None:
    summary = mixed(tmp_path / "o.mp4", joined[2], epochs=1)
    assert [data for _, data in sounds(tmp_path / "o.mp4")] == [data for _, data in sounds(joined[0], 7)]
    assert summary.notes == (f"{len(sounds(joined[1]))} packets of sound left out: their times step back",)
    assert summary.frames == len(seconds_of(tmp_path / "o.mp4")) == 50


def test_a_packet_of_sound_that_the_muxer_refuses_ends_the_sound_alone(
    tmp_path: Path, joined: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = SoundCopy._moved
    monkeypatch.setattr(SoundCopy, "_moved", lambda copy, packet, out: moved(copy, packet, min(out, 130_000)))
    assert mixed(tmp_path / "o.mp4", joined[0], epochs=1).notes == ("sound ends early: ArgumentError",)
    assert len(seconds_of(tmp_path / "o.mp4")) == 50 and 1 < len(sounds(tmp_path / "o.mp4")) < 10


@pytest.mark.parametrize(
    ("dts", "kept", "left_out"),
    [
        ([0, 9, 18, 5_000_000, 27, 36], [0, 9, 18, 27, 36], 1),
        ([900_000, 900_009, 0, 9], [900_000, 900_009, 0, 9], 0),
        ([0, 9, 900_000, 900_009, 900_018], [0, 9, 900_000, 900_009, 900_018], 0),
        ([0], [0], 0),
    ],
    ids=["stray", "step_back", "hole", "one"],
)
def test_a_stray_is_told_from_sound_that_goes_on_elsewhere(
    tmp_path: Path, joined: list[Path], dts: list[int], kept: list[int], left_out: int
) -> None:
    with av.open(str(tmp_path / "o.mp4"), "w") as container:
        copy = SoundCopy(str(joined[0]), container)
        copy.left_out = 0
        given: Any = SimpleNamespace(demux=lambda template: [SimpleNamespace(size=1, dts=at) for at in dts])
        found = list(copy._read(given, None))
        copy.close()
    assert [packet.dts for packet, _, _ in found] == kept and copy.left_out == left_out
    assert [turn for _, _, turn in found] == [n == 0 or abs(b - kept[n - 1]) > 90_000 for n, b in enumerate(kept)]


WRAPPING = (1 << 33) - 60_000  # the clock of a transport stream begins anew two thirds of a second later


def test_sound_goes_over_a_wrap_with_the_pictures(tmp_path: Path, joined: list[Path]) -> None:
    path = write_with_sound(tmp_path / "w.ts", WRAPPING * TB90)
    assert mixed(tmp_path / "o.mp4", path, epochs=1, first=WRAPPING).notes == ()
    found, plain = sounds(tmp_path / "o.mp4"), sounds(joined[0], 7)
    assert [data for _, data in found] == [data for _, data in plain]
    shift_s = WRAPPING * TB90 - BEGIN_S
    assert all(abs(a - b - shift_s) < Fraction(1, 10_000) for (a, _), (b, _) in zip(found, plain, strict=True))


def test_sound_is_heard_over_a_wrap_at_the_times_of_the_pictures(tmp_path: Path) -> None:
    path = write_with_sound(tmp_path / "w.ts", WRAPPING * TB90)
    track = SoundTrack(str(path), ReaderOptions(), SystemClock())
    begins = [block.begin_s for block in track.blocks() if block.begin_s is not None]
    track.close()
    assert track.first_picture_s == WRAPPING * TB90 and len(begins) > 90
    assert all(0 < b - a < Fraction(1, 40) for a, b in pairwise(begins))
    assert abs(begins[0] - track.first_picture_s) < Fraction(1, 40) and begins[-1] - begins[0] > Fraction(19, 10)


@pytest.mark.needs("ffmpeg")
def test_of_several_programmes_the_sound_is_that_of_the_pictures(tmp_path: Path, joined: list[Path]) -> None:
    """A broadcast with a radio programme before the one with pictures."""
    path, (mine, other, _) = tmp_path / "two.ts", joined
    maps = ["-map", "1:a", "-map", "0:v", "-map", "0:a", "-program", "st=0", "-program", "st=1:st=2"]
    subprocess.run(["ffmpeg", "-v", "error", "-i", mine, "-i", other, *maps, "-c", "copy", path], check=True)
    assert mixed(tmp_path / "o.mp4", path, epochs=1).notes == ()
    assert [data for _, data in sounds(tmp_path / "o.mp4")] == [data for _, data in sounds(mine, 7)]
    track = SoundTrack(str(path), ReaderOptions(), SystemClock())
    heard = np.concatenate([block.samples for block in track.blocks() if block.samples is not None])
    track.close()
    assert np.argmax(np.abs(np.fft.rfft(heard))) * track.rate / len(heard) == pytest.approx(440, abs=2)
