"""Mixed pictures as HLS (RFC 8216) with fragmented MP4 segments, and beside every segment a table of what is on it.

`segment-00007.m4s` has `segment-00007.json`: media sequence, and for each picture its offset in the segment, out_pts
and the frame key it shows, with the boxes that were drawn. So a player that draws by itself joins on the presented
frame. An epoch change is a discontinuity with an init segment of its own. A writer that goes on where another one ended
(`resume`) keeps the numbers going, so that players and caches never see one name for two things.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from av.video.frame import PictureType

from serving.adapters.video.encode import OutputTicks, add_video, picture_for
from serving.adapters.video.fragments import FragmentSink
from serving.adapters.video.hls_resume import HlsPlace, Listed, last_place
from serving.adapters.video.storage import make_folder, storage_error, write_whole
from serving.errors import StorageFailed
from serving.frames import AlignedFrame, FrameKey
from serving.media import OutputStream, OutputSummary
from serving.types import PixelArray

NS_PER_S = 1_000_000_000
ENCODER = {"preset": "veryfast", "crf": "23", "tune": "zerolatency", "forced-idr": "1"}
X264 = "keyint=infinite:scenecut=0:bframes=0"
MOVFLAGS = "frag_keyframe+empty_moov+default_base_moof+skip_trailer+frag_discont"
Describe = Callable[[AlignedFrame], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class HlsSettings:
    """segment_ns: least length of a segment. window: segments in the playlist, 0 for all; as many older ones stay on
    disk for players that are about to ask for them. resume: go on behind what the folder has."""

    segment_ns: int = 2 * NS_PER_S
    window: int = 0
    resume: bool = False

    def __post_init__(self) -> None:
        if self.segment_ns < 1 or self.window < 0:
            raise ValueError(f"HlsSettings: expected segment_ns >= 1 and window >= 0, got {self}")


@dataclass(slots=True)
class _Segment:
    number: int
    init: str
    discontinuity: bool
    frames: list[Mapping[str, Any]]
    first_ns: int
    last: FrameKey
    next_ns: int = 0

    @property
    def listed(self) -> Listed:
        return Listed(self.number, (self.next_ns - self.first_ns) / NS_PER_S, self.init, self.discontinuity)


class HlsWriter:
    """See `serving.media.VideoWriter`. `folder` gets index.m3u8, init-*.mp4, segment-*.m4s and segment-*.json."""

    def __init__(self, folder: Path, stream: OutputStream, describe: Describe, settings: HlsSettings | None = None):
        self._folder, self._stream, self._describe = folder, stream, describe
        self._settings = settings or HlsSettings()
        make_folder(folder)
        self._ticks = OutputTicks(stream)
        before = (last_place(folder) if self._settings.resume else None) or HlsPlace()
        self._done = list(before.listed)
        self._old: deque[Listed] = deque(before.older)  # out of the playlist, still on disk
        self._discontinuities, self._longest = before.discontinuities, before.target_s
        self._open: list[_Segment] = []  # begun and not yet written: the encoder's fragment comes with the next one
        self._inits, self._number = before.inits, before.next_number
        self._frames = self._bytes = 0
        self._last_ns = 0
        self._nominal_ns = 40_000_000
        self._init_written = ""
        self._closed = False
        self._whole: FrameKey | None = None
        self._begin_encoder(stream)

    def has(self, key: FrameKey) -> bool:
        """The frame is in a segment that is written whole; frames come in order."""
        return self._whole is not None and key <= self._whole

    def write(self, shown: AlignedFrame, rgb: PixelArray) -> None:
        """Encode one picture; a segment begins where the last one is long enough, and at every epoch."""
        size = (rgb.shape[1], rgb.shape[0])
        cut = shown.discontinuity or size != (self._stream.width, self._stream.height)
        if cut:
            self._end_encoder(min(self._media_end_ns, shown.out_pts_ns))  # what lies between is no media
            self._begin_encoder(self._stream.sized(*size))
        starts = not self._open or shown.out_pts_ns - self._open[-1].first_ns >= self._settings.segment_ns
        if starts:
            self._begin_segment(shown)
        tick = self._ticks.of(shown.out_pts_ns)
        picture = picture_for(rgb, self._stream, tick)
        if starts:
            picture.pict_type = PictureType.I
        self._open[-1].last = shown.frame.key
        self._open[-1].frames.append({"offset": len(self._open[-1].frames), "out_tick": tick, **self._describe(shown)})
        if self._frames and not cut:
            self._nominal_ns = max(1, shown.out_pts_ns - self._last_ns)
        self._last_ns = shown.out_pts_ns
        self._frames += 1
        self._encode(picture)

    def close(self) -> OutputSummary:
        """Write the last segment and end the playlist."""
        self._finish(ended=True)
        return OutputSummary(str(self._folder / "index.m3u8"), self._frames, self._bytes)

    def hand_over(self) -> None:
        """Write the last segment, short as it is, and leave the playlist open: another writer resumes behind it.

        Nothing where one has done so already: what it wrote stands.
        """
        before = last_place(self._folder) or HlsPlace()
        if before.next_number == HlsPlace(tuple(self._done)).next_number:
            self._finish(ended=False)

    def abandon(self) -> None:
        """Leave the playlist as it is: what is listed is whole. `hand_over` may still come."""

    # -- inside -----------------------------------------------------------------------------------------------------

    def _finish(self, ended: bool) -> None:
        if not self._closed:
            self._closed = True
            self._end_encoder(self._media_end_ns)
            self._write_playlist(ended)

    @property
    def _media_end_ns(self) -> int:
        """Where the last picture ends, as far as the one before it tells."""
        return self._last_ns + self._nominal_ns

    def _begin_encoder(self, stream: OutputStream) -> None:
        self._stream = stream
        self._sink = FragmentSink()
        scale = str(stream.time_base.denominator)
        options = {"movflags": MOVFLAGS, "video_track_timescale": scale, "avoid_negative_ts": "disabled"}
        self._container = av.open(self._sink, "w", format="mp4", container_options=options)
        self._video = add_video(self._container, stream, {**ENCODER, "x264-params": X264})
        self._inits += 1

    def _end_encoder(self, end_ns: int) -> None:
        if not self._open:
            return
        self._open[-1].next_ns = end_ns
        self._encode(None)
        try:
            self._container.close()
        except (OSError, av.FFmpegError) as error:
            raise self._failed(error) from error
        self._take_fragments()

    def _begin_segment(self, shown: AlignedFrame) -> None:
        if self._open:
            self._open[-1].next_ns = shown.out_pts_ns
        new_init = not self._open
        init = f"init-{self._inits:03d}.mp4"
        cut = new_init and self._number > 0
        self._open.append(_Segment(self._number, init, cut, [], shown.out_pts_ns, shown.frame.key))
        self._number += 1

    def _encode(self, picture: Any) -> None:
        try:
            for packet in self._video.encode(picture):
                self._container.mux(packet)
        except (OSError, av.FFmpegError) as error:
            raise self._failed(error) from error
        self._take_fragments()

    def _take_fragments(self) -> None:
        for fragment in self._sink.fragments():
            segment = self._open.pop(0)
            if segment.init != self._init_written:
                self._init_written = segment.init
                write_whole(self._folder / segment.init, self._sink.init)
            name = f"segment-{segment.number:05d}"
            table = {"media_sequence": segment.number, "frames": segment.frames}
            write_whole(self._folder / f"{name}.json", json.dumps(table, separators=(",", ":")).encode())
            write_whole(self._folder / f"{name}.m4s", fragment)
            self._bytes += len(fragment)
            self._whole = segment.last
            self._done.append(segment.listed)
            self._expire()
            self._write_playlist(ended=False)

    def _expire(self) -> None:
        while self._settings.window and len(self._done) > self._settings.window:
            self._old.append(self._done.pop(0))
            self._discontinuities += self._old[-1].discontinuity
        while len(self._old) > self._settings.window:
            gone = self._old.popleft()
            for suffix in ("m4s", "json"):
                (self._folder / f"segment-{gone.number:05d}.{suffix}").unlink(missing_ok=True)
            if gone.init and not any(segment.init == gone.init for segment in (*self._old, *self._done)):
                (self._folder / gone.init).unlink(missing_ok=True)

    def _write_playlist(self, ended: bool) -> None:
        self._longest = max([self._longest, *(s.seconds for s in self._done[-1:])])  # never falls: RFC 8216, 6.2.1
        lines = ["#EXTM3U", "#EXT-X-VERSION:7", f"#EXT-X-TARGETDURATION:{max(1, round(self._longest + 0.5))}"]
        lines += [f"#EXT-X-MEDIA-SEQUENCE:{self._done[0].number if self._done else 0}"]
        lines += [f"#EXT-X-DISCONTINUITY-SEQUENCE:{self._discontinuities}"] if self._discontinuities else []
        lines += ["#EXT-X-INDEPENDENT-SEGMENTS"]
        init = ""
        for segment in self._done:
            if segment.discontinuity:
                lines.append("#EXT-X-DISCONTINUITY")
            if segment.init != init:
                lines.append(f'#EXT-X-MAP:URI="{segment.init}"')
                init = segment.init
            lines += [f"#EXTINF:{segment.seconds:.6f},", f"segment-{segment.number:05d}.m4s"]
        lines += ["#EXT-X-ENDLIST"] if ended else []
        write_whole(self._folder / "index.m3u8", ("\n".join(lines) + "\n").encode())

    def _failed(self, error: OSError | av.FFmpegError) -> StorageFailed:
        if isinstance(error, OSError):
            return storage_error(self._folder, error)
        return StorageFailed(f"{self._folder}: the encoder stopped: {error.strerror or type(error).__name__}")
