"""What is written keeps the source's PTS as exact seconds, and appears only when it is whole."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from video_helpers import TB90, raw_pts, read  # type: ignore[import-not-found]

from serving.adapters.video import HlsSettings, HlsWriter, Mp4Writer, clips, last_shown
from serving.adapters.video.clips import ClipSpec
from serving.align import ticks_to_ns
from serving.errors import StorageFailed
from serving.frames import AlignedFrame, Frame
from serving.media import OutputStream, StreamOpened, VideoWriter
from serving.streams.lines import describe
from serving.types import PixelArray

Make = Callable[..., Path]
STEADY = [3000 * n for n in range(40)]


def shown(
    ticks: list[int], base: Fraction, epoch: int = 1, out_ns: int = 0, fresh: bool = False
) -> Iterator[AlignedFrame]:
    for seq, tick in enumerate(ticks):
        pts_ns = ticks_to_ns(tick - ticks[0], base)
        frame = Frame("s", epoch, seq, pts_ns, tick, base, ("p",), 0)
        yield AlignedFrame(frame, pts_ns + out_ns, (), 0, discontinuity=fresh and seq == 0)


def picture(number: int, width: int = 96, height: int = 64) -> PixelArray:
    return np.full((height, width, 3), 20 + 4 * number % 200, np.uint8)


def fill(writer: VideoWriter, ticks: list[int], base: Fraction, **more: object) -> None:
    for number, frame in enumerate(shown(ticks, base, **more)):  # type: ignore[arg-type]
        writer.write(frame, picture(number))


def seconds_of(path: Path) -> list[Fraction]:
    events = read(path)
    base = next(event.info.time_base for event in events if isinstance(event, StreamOpened))
    return [pts * base for pts in raw_pts(events)]


@pytest.mark.parametrize(
    ("base", "ticks"),
    [
        (TB90, STEADY),
        (TB90, [126_000 + s for s in STEADY]),
        (TB90, [(1 << 33) - 60_000 + s for s in STEADY]),
        (TB90, [int(sum(range(n)) * 37 + 900 * n) for n in range(40)]),
        (Fraction(1, 1000), [33 * n for n in range(40)]),
        (Fraction(1, 1000), [7 + 33 * n for n in range(40)]),
        (Fraction(1, 30_000), [1001 * n for n in range(40)]),
        (Fraction(1001, 30_000), list(range(40))),
        (Fraction(1, 10**9), [33_366_667 * n for n in range(40)]),
    ],
    ids=["steady", "offset", "near_wrap", "vfr", "ms", "ms_offset", "ntsc", "ntsc_frames", "nanoseconds"],
)
def test_mp4_keeps_the_source_pts(tmp_path: Path, base: Fraction, ticks: list[int]) -> None:
    writer = Mp4Writer(tmp_path / "o.mp4", OutputStream(96, 64, base, ticks[0]))
    fill(writer, ticks, base)
    summary = writer.close()
    assert (summary.frames, summary.notes) == (40, ())
    assert seconds_of(tmp_path / "o.mp4") == [t * base for t in ticks]


def test_output_time_goes_on_over_an_epoch(tmp_path: Path) -> None:
    writer = Mp4Writer(tmp_path / "o.mp4", OutputStream(96, 64, TB90, 0))
    fill(writer, STEADY, TB90)
    fill(writer, STEADY, TB90, epoch=2, out_ns=5 * 10**9)
    writer.close()
    found = seconds_of(tmp_path / "o.mp4")
    assert len(found) == 80 and found == sorted(set(found)) and found[40] == 5


def test_a_picture_of_another_size_is_fitted(tmp_path: Path) -> None:
    writer = Mp4Writer(tmp_path / "o.mp4", OutputStream(97, 65, TB90, 0))
    for frame in shown(STEADY[:3], TB90):
        writer.write(frame, picture(40, 30, 90))
    writer.close()
    opened = read(tmp_path / "o.mp4")[0]
    assert isinstance(opened, StreamOpened) and (opened.info.width, opened.info.height) == (98, 66)


def test_nothing_half_written_shows(tmp_path: Path) -> None:
    writer = Mp4Writer(tmp_path / "o.mp4", OutputStream(96, 64, TB90))
    fill(writer, STEADY, TB90)
    assert not (tmp_path / "o.mp4").exists()
    with pytest.raises(StorageFailed, match="another run is writing"):
        Mp4Writer(tmp_path / "o.mp4", OutputStream(96, 64, TB90))
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="cannot be written"):
        Mp4Writer(tmp_path / "no" / "o.mp4", OutputStream(96, 64, TB90))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / ".o.mp4.part").symlink_to("/dev/full")
    rng = np.random.default_rng(7)
    with pytest.raises(StorageFailed):
        writer = Mp4Writer(tmp_path / "o.mp4", OutputStream(320, 240, TB90))
        for frame in shown([3000 * n for n in range(300)], TB90):
            writer.write(frame, rng.integers(0, 255, (240, 320, 3), np.uint8))
        writer.close()
    assert not (tmp_path / "o.mp4").exists()


@pytest.mark.parametrize("kind", ["hls", "mp4"])
def test_a_picture_that_the_encoder_refuses_is_an_error_of_the_output(tmp_path: Path, kind: str) -> None:
    """libx264 takes 16384 pixels a side at most."""
    stream = OutputStream(16_400, 16, TB90)
    with pytest.raises(StorageFailed, match="the encoder stopped"):
        writer: VideoWriter = (
            HlsWriter(tmp_path, stream, lambda frame: {}) if kind == "hls" else Mp4Writer(tmp_path / "o.mp4", stream)
        )
        for frame in shown(STEADY[:2], TB90):
            writer.write(frame, picture(40, stream.width, stream.height))


def test_an_encoder_that_fails_at_the_end_is_an_error_of_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def encode(self, picture: object) -> list[object]:
            raise av.error.ExternalError(1, "broken")

    writer = HlsWriter(tmp_path, OutputStream(96, 64, TB90), lambda frame: {})
    fill(writer, STEADY[:3], TB90)
    monkeypatch.setattr(writer, "_video", Failing())
    with pytest.raises(StorageFailed, match="the encoder stopped: broken"):
        writer.close()


@pytest.mark.needs("ffmpeg")
@pytest.mark.parametrize(("codec", "note"), [("aac", ""), ("pcm_s16le", "does not fit MP4")])
def test_sound_is_copied_where_it_fits(clip: Make, tmp_path: Path, codec: str, note: str) -> None:
    source, path = clip("v.mp4", STEADY, ClipSpec("mp4", TB90)), tmp_path / "va.mkv"
    tone = ["-f", "lavfi", "-i", "sine=d=1.3"]
    command = ["ffmpeg", "-v", "error", "-i", source, *tone, "-c:v", "copy", "-c:a", codec, path]
    subprocess.run(command, check=True)
    writer = Mp4Writer(tmp_path / "o.mp4", OutputStream(96, 64, TB90), sound_from=str(path))
    fill(writer, STEADY, TB90)
    notes = writer.close().notes
    probe = [
        "ffprobe",
        "-v",
        "error",
        "-show_entries",
        "packet=codec_type,data_hash",
        "-show_data_hash",
        "md5",
        "-of",
        "csv",
    ]
    sounds = [
        [line for line in subprocess.run([*probe, p], capture_output=True, text=True).stdout.split() if "audio" in line]
        for p in (path, tmp_path / "o.mp4")
    ]
    if note:
        assert note in notes[0] and sounds[1] == []
    else:
        assert notes == () and len(sounds[0]) > 40 and sounds[1] == sounds[0]


def test_hls_segments_with_their_tables(tmp_path: Path) -> None:
    def describe(frame: AlignedFrame) -> dict[str, object]:
        return {"pts_ns": frame.frame.pts_ns, "epoch": frame.frame.epoch}

    ticks = [3000 * n for n in range(75)]
    writer = HlsWriter(tmp_path, OutputStream(96, 64, TB90), describe, HlsSettings(segment_ns=10**9))
    fill(writer, ticks, TB90)
    fill(writer, ticks[:20], TB90, epoch=2, out_ns=3 * 10**9, fresh=True)
    assert writer.close().frames == 95
    playlist = (tmp_path / "index.m3u8").read_text().splitlines()
    names = [line for line in playlist if line.endswith(".m4s")]
    assert len(names) == 4 and playlist[-1] == "#EXT-X-ENDLIST"
    assert playlist.count("#EXT-X-DISCONTINUITY") == 1 and sum("EXT-X-MAP" in line for line in playlist) == 2
    tables = [json.loads((tmp_path / n.replace("m4s", "json")).read_text()) for n in names]
    assert [len(t["frames"]) for t in tables] == [30, 30, 15, 20]
    assert [f["epoch"] for f in tables[3]["frames"]] == [2] * 20
    for name, table in zip(names, tables, strict=True):
        init = "init-001.mp4" if table["frames"][0]["epoch"] == 1 else "init-002.mp4"
        whole = tmp_path / "whole.mp4"
        whole.write_bytes((tmp_path / init).read_bytes() + (tmp_path / name).read_bytes())
        assert seconds_of(whole) == [f["out_tick"] * TB90 for f in table["frames"]]


def test_an_outage_is_in_no_segment(tmp_path: Path) -> None:
    """A segment ends with its pictures: what is before a discontinuity lasts no longer for what comes after it."""

    def written(resume: bool, epochs: list[tuple[int, int, int]]) -> None:
        settings = HlsSettings(segment_ns=10**9, resume=resume)
        writer = HlsWriter(tmp_path, OutputStream(96, 64, TB90), describe, settings)
        for epoch, pictures, at_s in epochs:
            fill(writer, STEADY[:pictures], TB90, epoch=epoch, out_ns=at_s * 10**9, fresh=epoch > 1)
        writer.close()

    def lines(start: str) -> list[str]:
        playlist = (tmp_path / "index.m3u8").read_text().splitlines()
        return [line.removeprefix(start) for line in playlist if line.startswith(start)]

    written(False, [(1, 40, 0), (2, 40, 300), (3, 1, 600)])
    assert lines("#EXTINF:") == ["1.000000,", "0.333333,", "1.000000,", "0.333333,", "0.033333,"]
    assert lines("#EXT-X-TARGETDURATION:") == ["2"]
    table = json.loads((tmp_path / "segment-00002.json").read_text())["frames"]
    assert (table[0]["out_pts_ns"], table[0]["out_tick"]) == (300 * 10**9, 300 * 90_000)
    last = last_shown(tmp_path)
    assert last is not None and last.out_pts_ns == 600 * 10**9
    written(True, [(3, 40, 600), (4, 1, 900)])
    assert lines("#EXTINF:")[5:] == ["1.000000,", "0.333333,", "0.033333,"]
    assert lines("#EXT-X-TARGETDURATION:") == ["2"]


def test_hls_is_read_back_as_one_stream(tmp_path: Path) -> None:
    writer = HlsWriter(tmp_path, OutputStream(96, 64, TB90), lambda frame: {}, HlsSettings(segment_ns=10**9))
    fill(writer, STEADY, TB90)
    writer.close()
    assert len(raw_pts(read(tmp_path / "index.m3u8"))) == 40


def test_hls_window_bounds_the_disk(tmp_path: Path) -> None:
    writer = HlsWriter(tmp_path, OutputStream(96, 64, TB90), lambda frame: {}, HlsSettings(10**9, window=2))
    fill(writer, [3000 * n for n in range(200)], TB90)
    writer.close()
    kept = 2 + 2  # as many older ones stay for players that read behind the playlist
    assert len(list(tmp_path.glob("*.m4s"))) == len(list(tmp_path.glob("segment-*.json"))) == kept
    assert "#EXT-X-MEDIA-SEQUENCE:5" in (tmp_path / "index.m3u8").read_text()
    assert clips.X264_NO_B
