"""Pictures come out in presentation order, with the container's own integers, each with the tag of its packet."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from video_helpers import TB90, ledger_of, raw_pts, read, write_two_sizes  # type: ignore[import-not-found]

from serving.adapters.video import clips
from serving.adapters.video.clips import ClipSpec
from serving.errors import SourceError, SourceInvalid, SourceNotFound, SourceRefused
from serving.frames import DroppedRun, DropReason, Frame, PtsSource, SourceKind
from serving.media import DecoderRefused, MediaEvent, PacketSeen, PictureSeen, StreamEnded, StreamOpened
from serving.testing.ts_surgery import Stamps, restamp, without_pictures

Make = Callable[..., Path]
STEADY = [3000 * n for n in range(40)]
MS = [33 * n for n in range(40)]
VFR = [int(sum(range(n)) * 37 + 900 * n) for n in range(40)]
NTSC = [1001 * n for n in range(40)]
KINDS = {
    "ibbp.ts": (STEADY, ClipSpec("mpegts", TB90)),
    "pyramid.mp4": (STEADY, ClipSpec("mp4", TB90, clips.X264_PYRAMID)),
    "open_gop.ts": (STEADY, ClipSpec("mpegts", TB90, clips.X264_OPEN_GOP)),
    "no_b.mp4": (STEADY, ClipSpec("mp4", TB90, clips.X264_NO_B)),
    "vfr.mp4": (VFR, ClipSpec("mp4", TB90)),
    "ntsc.mp4": (NTSC, ClipSpec("mp4", Fraction(1, 30_000), rate=Fraction(30_000, 1001))),
    "b.flv": (MS, ClipSpec("flv", Fraction(1, 1000))),
    "b.mkv": (MS, ClipSpec("matroska", Fraction(1, 1000))),
}


def ffprobe_seconds(path: Path) -> list[Fraction]:
    """PTS of every picture by ffprobe, as exact seconds."""
    command = ["ffprobe", "-v", "error", "-select_streams", "v", "-of", "csv=p=0"]
    base = subprocess.run([*command, "-show_entries", "stream=time_base", path], capture_output=True, text=True)
    stamps = subprocess.run([*command, "-show_entries", "frame=pts", path], capture_output=True, text=True)
    time_base = Fraction(base.stdout.split()[0].strip(","))
    return [int(line.split(",")[0]) * time_base for line in stamps.stdout.split()]


def seconds(events: list[MediaEvent]) -> list[Fraction]:
    base = next(event.info.time_base for event in events if isinstance(event, StreamOpened))
    return [pts * base for pts in raw_pts(events)]


@pytest.mark.needs("ffmpeg")
@pytest.mark.parametrize("name", KINDS)
def test_pts_are_those_of_ffprobe(clip: Make, name: str) -> None:
    path = clip(name, *KINDS[name])
    assert seconds(read(path)) == ffprobe_seconds(path)


@pytest.mark.parametrize("name", KINDS)
def test_every_picture_comes_back_with_its_own_packet(clip: Make, name: str) -> None:
    events = read(clip(name, *KINDS[name]))
    packets = {e.tag: e.raw_pts for e in events if isinstance(e, PacketSeen)}
    seen = [e for e in events if isinstance(e, PictureSeen)]
    assert len(seen) == len(packets) == 40
    assert [e.raw_pts for e in seen] == sorted(packets.values())
    assert all(packets[e.tag] == e.raw_pts for e in seen)
    assert events[-1] == StreamEnded(None)


def test_two_readers_at_once_do_not_share_tags(clip: Make) -> None:
    """libav's opaque table goes by object identity, and small integers are one object."""
    path = clip("a.ts", STEADY, ClipSpec("mpegts", TB90))
    both = zip(_events(path), _events(path), strict=True)
    tags = [(a.tag, b.tag) for a, b in both if isinstance(a, PictureSeen) and isinstance(b, PictureSeen)]
    assert len(tags) == 40 and all(a is not None and a == b for a, b in tags)


def test_pixels_are_those_of_the_picture(clip: Make) -> None:
    pictures = [e for e in read(clip("p.mp4", STEADY, ClipSpec("mp4", TB90))) if isinstance(e, PictureSeen)]
    levels = [float(e.picture.rgb().mean()) for e in pictures]
    assert np.allclose(levels, [20 + 4 * n for n in range(40)], atol=3)


@pytest.mark.parametrize(
    ("name", "modulus", "base", "depth"),
    [("ibbp.ts", 1 << 33, TB90, 1), ("no_b.mp4", None, TB90, 0), ("b.flv", 1 << 31, Fraction(1, 1000), 1)],
)
def test_stream_info(clip: Make, name: str, modulus: int | None, base: Fraction, depth: int) -> None:
    opened = read(clip(name, *KINDS[name]))[0]
    assert isinstance(opened, StreamOpened)
    info = opened.info
    assert (info.pts_modulus, info.time_base, info.reorder_depth) == (modulus, base, depth)
    assert (info.width, info.height, info.kind, info.pts_source) == (96, 64, SourceKind.FILE, PtsSource.CONTAINER)


def test_a_wrap_is_seen_raw(clip: Make) -> None:
    start = (1 << 33) - 20 * 3000
    path = clip("w.ts", [start + s for s in STEADY], ClipSpec("mpegts", TB90))
    pts = raw_pts(read(path))
    assert max(pts) > (1 << 33) - 3000 * 3 and min(pts) < 3000 * 40, "the reader must see the step"
    frames = [r for r in ledger_of(path) if isinstance(r, Frame)]
    assert [f.pts_ns for f in frames] == [_ns(s) for s in STEADY]


def test_a_missing_pts_is_absent_and_not_filled_from_dts(clip: Make) -> None:
    path = clip("m.ts", STEADY, ClipSpec("mpegts", TB90))
    path.write_bytes(restamp(path.read_bytes(), lambda n, s: Stamps(None, None) if n in (10, 11, 20) else s))
    assert raw_pts(read(path)).count(None) == 3
    drops = [r for r in ledger_of(path) if isinstance(r, DroppedRun)]
    assert [r.reason for r in drops] == [DropReason.NO_PTS] * 3


def test_lost_packets_are_decode_errors_in_a_ledger_without_holes(clip: Make) -> None:
    path = clip("l.ts", STEADY, ClipSpec("mpegts", TB90, clips.X264_NO_B))
    path.write_bytes(_damaged(path.read_bytes(), 20))
    events = read(path)
    records = ledger_of(path)
    packets = sum(isinstance(e, PacketSeen) for e in events)
    frames = sum(isinstance(r, Frame) for r in records)
    lost = [r for r in records if isinstance(r, DroppedRun)]
    assert packets == frames + len(lost) == 40
    places = sorted([r.frame_seq for r in records if isinstance(r, Frame)] + [r.first_seq for r in lost])
    assert places == list(range(40))
    assert {r.reason for r in lost} <= {DropReason.DECODE_ERROR}


def test_pictures_that_never_arrived_leave_the_others_in_place(clip: Make) -> None:
    path = clip("d.ts", STEADY, ClipSpec("mpegts", TB90))
    path.write_bytes(without_pictures(path.read_bytes(), frozenset({7, 8, 22})))
    frames = [r for r in ledger_of(path) if isinstance(r, Frame)]
    assert {f.raw_pts for f in frames} <= set(raw_pts(read(path)))
    assert len(frames) >= 30 and [f.pts_ns for f in frames] == sorted(f.pts_ns for f in frames)


@pytest.mark.needs("ffmpeg")
def test_an_edit_list_hides_pictures_and_loses_none(clip: Make, tmp_path: Path) -> None:
    spec = ClipSpec("mp4", TB90, "bframes=2:b-adapt=0:scenecut=0:keyint=30")
    source, path = clip("k.mp4", [3000 * n for n in range(120)], spec), tmp_path / "trim.mp4"
    subprocess.run(["ffmpeg", "-v", "error", "-ss", "1.5", "-i", source, "-c", "copy", "-t", "2", path], check=True)
    events = read(path)
    assert any(e.discard for e in events if isinstance(e, PacketSeen))
    assert seconds(events) == ffprobe_seconds(path)
    records = ledger_of(path)
    assert all(isinstance(r, Frame) for r in records) and len(records) == len(ffprobe_seconds(path))


def test_a_change_of_size_opens_the_stream_anew(clip: Make) -> None:
    first = clip("s1.ts", STEADY, ClipSpec("mpegts", TB90))
    second = clip("s2.ts", [STEADY[-1] + 3000 + s for s in STEADY], ClipSpec("mpegts", TB90), 128, 96)
    first.write_bytes(first.read_bytes() + second.read_bytes())
    events = read(first)
    sizes = [(e.info.width, e.info.height) for e in events if isinstance(e, StreamOpened)]
    assert sizes == [(96, 64), (128, 96)]
    records = ledger_of(first)
    assert [r.epoch for r in records if isinstance(r, Frame)] == [1] * 40 + [2] * 40
    assert not any(isinstance(r, DroppedRun) for r in records)


FAST = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
GROUP = {"g": "300", "bf": "2"}


@pytest.mark.parametrize(
    ("encoder", "container", "time_base", "step", "options"),
    [
        ("libvpx", "webm", Fraction(1, 1000), 33, FAST),
        ("libvpx-vp9", "webm", Fraction(1, 1000), 33, FAST),
        ("mpeg2video", "ts", Fraction(1, 30), 1, GROUP),
        ("mpeg4", "ts", Fraction(1, 30), 1, GROUP),
        ("mpeg4", "mp4", Fraction(1, 30), 1, {"g": "300"}),
    ],
)
def test_a_change_of_size_loses_no_picture_of_another_codec(
    tmp_path: Path, encoder: str, container: str, time_base: Fraction, step: int, options: dict[str, str]
) -> None:
    """Without a second keyframe: where only the pictures show their size, the decoder holds packets of it by then."""
    path = tmp_path / f"two.{container}"
    write_two_sizes(path, encoder, time_base, step, **options)
    events, records = read(path), ledger_of(path)
    assert [event.info.width for event in events if isinstance(event, StreamOpened)] == [96, 128]
    assert sum(isinstance(event, PacketSeen) for event in events) == 80
    assert [(type(r), r.epoch) for r in records] == [(Frame, 1)] * 40 + [(Frame, 2)] * 40


def test_containers_without_pts(clip: Make) -> None:
    b_frames = clip("b.avi", STEADY, ClipSpec("avi", Fraction(1, 30)))
    with pytest.raises(SourceInvalid, match="holds no PTS and this stream has B-frames"):
        read(b_frames)
    assumed = read(b_frames, assume_fps=Fraction(30))
    assert raw_pts(assumed) == list(range(40))
    assert assumed[0].info.pts_source is PtsSource.ASSUMED  # type: ignore[union-attr]
    plain = read(clip("n.avi", list(range(40)), ClipSpec("avi", Fraction(1, 30), clips.X264_NO_B)))
    assert raw_pts(plain) == list(range(40))
    assert plain[0].info.pts_source is PtsSource.DEMUXER  # type: ignore[union-attr]


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        cv2.imwrite(str(tmp_path / f"img{number}.png"), np.full((40, 60, 3), 20 * number, np.uint8))
    (tmp_path / "img3.png").write_bytes(b"not a picture")
    events = read(tmp_path)
    levels = [int(e.picture.rgb().mean()) for e in events if isinstance(e, PictureSeen)]
    assert levels == [20, 40, 200] and raw_pts(events) == [0, 1, 3]
    assert [e for e in events if isinstance(e, DecoderRefused)] and events[-1] == StreamEnded(None)


def test_a_broken_picture_before_the_first_size_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "img0.png").write_bytes(b"not a picture")
    for number, (width, height) in enumerate([(60, 40), (30, 20), (60, 40)], start=1):
        cv2.imwrite(str(tmp_path / f"img{number}.png"), np.full((height, width, 3), 20, np.uint8))
    assert [e.tag for e in read(tmp_path) if isinstance(e, PacketSeen)] == [0, 1, 2, 3]
    kinds = [(type(r), r.epoch) for r in ledger_of(tmp_path)]
    assert kinds == [(DroppedRun, 1), (Frame, 1), (Frame, 2), (Frame, 3)]


def test_a_picture_of_a_folder_that_went_since_does_not_decode(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "img1.png"), np.full((40, 60, 3), 20, np.uint8))
    (seen,) = [e for e in read(tmp_path) if isinstance(e, PictureSeen)]
    (tmp_path / "img1.png").unlink()
    with pytest.raises(ValueError, match=r"img1\.png: No such file"):
        seen.picture.rgb()


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("garbage.mp4", b"this is not a video" * 50, SourceInvalid),
        ("empty.mp4", b"", SourceInvalid),
        ("zero.ts", bytes(188 * 100), SourceInvalid),
    ],
)
def test_what_is_no_video_is_said_so(tmp_path: Path, name: str, data: bytes, error: type[SourceError]) -> None:
    (tmp_path / name).write_bytes(data)
    assert isinstance(_error_of(tmp_path / name), error)


@pytest.mark.needs("ffmpeg")
def test_a_raw_stream_is_counted_at_the_rate_its_codec_says(tmp_path: Path) -> None:
    path, picture = tmp_path / "r.h264", "testsrc=d=1:s=64x64:r=30"
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", picture, "-bf", "0", path], check=True)
    opened = next(event for event in read(path) if isinstance(event, StreamOpened))
    assert opened.info.time_base == Fraction(1, 30), "libav's average says 25 here, as for every raw stream"


@pytest.mark.needs("ffmpeg")
def test_a_file_with_sound_and_words_gives_its_video(clip: Make, tmp_path: Path) -> None:
    source, path = clip("v.mp4", STEADY, ClipSpec("mp4", TB90)), tmp_path / "va.mkv"
    words = tmp_path / "w.srt"
    words.write_text("1\n00:00:00,000 --> 00:00:01,000\nwords\n")
    inputs = ["-i", source, "-f", "lavfi", "-i", "sine=d=1.3", "-i", words]
    command = ["ffmpeg", "-v", "error", *inputs, "-map", "0", "-map", "1", "-map", "2", "-c:v", "copy", path]
    subprocess.run(command, check=True)
    events = read(path)
    assert len(raw_pts(events)) == len(STEADY) == sum(isinstance(event, PacketSeen) for event in events)


@pytest.mark.needs("ffmpeg")
def test_a_format_that_is_not_allowed_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=d=1:s=64x64", path], check=True)
    error = _error_of(path)
    assert isinstance(error, SourceRefused) and "its format is not allowed" in str(error) and "matroska" in str(error)


def test_a_cut_off_file_gives_what_is_there(clip: Make) -> None:
    path = clip("t.ts", STEADY, ClipSpec("mpegts", TB90))
    path.write_bytes(path.read_bytes()[: 188 * 12])
    assert 1 <= len(raw_pts(read(path))) < 40


def test_moov_cut_off(clip: Make) -> None:
    path = clip("m.mp4", STEADY, ClipSpec("mp4", TB90))
    path.write_bytes(path.read_bytes()[:-400])
    assert isinstance(_error_of(path), SourceInvalid)


def test_sound_only_missing_and_forbidden(clip: Make, tmp_path: Path) -> None:
    import wave

    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(1600))
    assert isinstance(_error_of(tmp_path / "a.wav"), SourceInvalid | SourceRefused)
    assert isinstance(_error_of(tmp_path / "nothing.mp4"), SourceNotFound)
    assert isinstance(_error_of("gopher://x/y"), SourceRefused)
    from serving.adapters.video.address import SourcePolicy

    path = clip("c.mp4", STEADY, ClipSpec("mp4", TB90))
    with pytest.raises(SourceRefused, match="codec h264 is not allowed"):
        read(path, policy=SourcePolicy(codecs=frozenset({"mjpeg"})))


# -- helpers --


def _events(path: Path):  # type: ignore[no-untyped-def]
    from serving.adapters.video.source import AddressSource

    return AddressSource("s", str(path)).connect().events()


def _error_of(path: Path | str) -> SourceError | None:
    try:
        last = read(path)[-1]
    except SourceError as error:
        return error
    return last.error if isinstance(last, StreamEnded) else None


def _damaged(data: bytes, packet: int) -> bytes:
    """Overwrite the slice data of one picture."""
    from serving.testing.ts_surgery import PACKET, _pes_headers

    at = list(_pes_headers(data))[packet]
    out = bytearray(data)
    end = at - at % PACKET + PACKET
    out[at + 30 : end] = b"\xff" * (end - at - 30)
    return bytes(out)


def _ns(ticks: int) -> int:
    return (2 * ticks * 10**9 + 90_000) // 180_000


@pytest.mark.needs("ffmpeg")
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_display_matrix_is_applied_as_ffmpeg_does(tmp_path: Path, degrees: int) -> None:
    from serving.adapters.video.clips import write_clip

    ramp = np.zeros((64, 96, 3), np.uint8)
    ramp[:32, :48], ramp[32:, 48:] = (220, 30, 30), (30, 30, 220)
    write_clip(tmp_path / "c.mp4", ClipSpec("mp4", TB90), ((ramp, s) for s in STEADY[:5]))
    turned, still = tmp_path / "t.mp4", tmp_path / "t.png"
    copy = ["-c", "copy", "-metadata:s:v:0", f"rotate={degrees}", turned]
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "c.mp4", *copy], check=True)
    subprocess.run(["ffmpeg", "-v", "error", "-i", turned, "-frames:v", "1", still], check=True)
    wanted = cv2.cvtColor(cv2.imread(str(still)), cv2.COLOR_BGR2RGB)
    events = read(turned)
    found = next(e.picture.rgb() for e in events if isinstance(e, PictureSeen))
    info = next(e.info for e in events if isinstance(e, StreamOpened))
    assert found.shape == wanted.shape == (info.height, info.width, 3)
    assert np.abs(found.astype(int) - wanted).mean() < 4
