"""The clips of sync-test: ten seconds each, every picture carrying its own number, every kind with its own trouble.

A kind says how its clip is made and spoilt, how the source behaves, when results come, and what must come of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from serving.adapters.video import clips
from serving.adapters.video.clips import ClipSpec, write_clip
from serving.testing.sync_code import PATHS, picture
from serving.testing.sync_scene import Replies, Reply, steady
from serving.testing.ts_surgery import WRAP, Stamps, restamp, without_pictures

FRAMES = 300
MS = 1_000_000
NS_PER_S = 1_000_000_000
TB90, TB1000, TB_NTSC = Fraction(1, 90_000), Fraction(1, 1000), Fraction(1, 30_000)
TB_NS = Fraction(1, NS_PER_S)
NTSC = Fraction(30_000, 1001)
EVEN = tuple(3000 * n for n in range(FRAMES))
FLV_WRAP = 1 << 31
HOUR = 3600 * 90_000
Surgery = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Part:
    """One connection: pictures first.. of the clip with these PTS, written by `spec`, then spoilt by `surgery`.

    gap_ns: quiet time before it, beyond one picture's duration. signalled: the reader reconnects; otherwise the
    bytes simply go on. lost: packets (by number in the file) that `surgery` takes away.
    """

    pts: Sequence[int]
    spec: ClipSpec
    surgery: Surgery | None = None
    gap_ns: int = 0
    signalled: bool = True
    lost: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Kind:
    """drops: reasons at ingest that must come of it. exact and the bounds below: what the score must reach.

    sees_wrap: the reader must see raw PTS step by half the modulus, else the case proves nothing. absent: pictures
    without the square, on which nothing may be drawn.
    """

    name: str
    what: str
    parts: tuple[Part, ...]
    path: str = "linear"
    live: bool = True
    every: int = 1
    delay_ns: int = 250 * MS
    replies: Replies = field(default_factory=lambda: steady(80 * MS))
    pipelines: tuple[str, ...] = ("code",)
    wall: Callable[[int], int] = lambda now_ns: now_ns
    version: int = 1
    epochs: int = 1
    drops: tuple[tuple[str, int], ...] = ()
    sees_wrap: bool = False
    absent: range = range(0)

    def write(self, folder: Path) -> list[tuple[Path, Part, int]]:
        """Make the clip: (file, part, number of its first picture) for each connection."""
        out = []
        first, seconds = 0, 0.0
        for number, part in enumerate(self.parts):
            times = self.true_ns(number)
            path = folder / f"{self.name}-{number}.{_suffix(part.spec)}"
            shown = (picture(first + n, number, self.centre(first + n, t)) for n, t in enumerate(times))
            write_clip(path, part.spec, zip(shown, part.pts, strict=True))
            if part.surgery is not None:
                path.write_bytes(part.surgery(path.read_bytes()))
            out.append((path, part, first))
            first, seconds = first + len(part.pts), seconds + times[-1] / NS_PER_S
        return out

    def centre(self, index: int, true_ns: int) -> tuple[float, float] | None:
        """Where the square is on picture `index`; None where it is away."""
        return None if index in self.absent else PATHS[self.path](true_ns / NS_PER_S)

    def true_ns(self, number: int) -> list[int]:
        """When each picture of a part is shown, from the start of the clip."""
        start = 0
        for place, part in enumerate(self.parts):
            base = part.spec.time_base
            times = [start + _ns(p - part.pts[0], base) for p in part.pts]
            if place == number:
                return times
            step = times[-1] - times[-2]
            start = times[-1] + step + self.parts[place + 1].gap_ns if place + 1 < len(self.parts) else 0
        raise ValueError(f"{self.name}: there is no part {number}")


def lognormal(seed: int = 7, count: int = FRAMES) -> list[int]:
    """Latencies of docs/alignment.md in nanoseconds: median 80 ms, sigma 0.35, 1 % with 400 ms more."""
    rng = random.Random(seed)
    return [int(rng.lognormvariate(0, 0.35) * 80 * MS) + 400 * MS * (rng.random() < 0.01) for _ in range(count)]


def percentile(values: Sequence[int], share: float) -> int:
    """The value below which `share` of them lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _ns(ticks: int, base: Fraction) -> int:
    return round(ticks * base * NS_PER_S)


def _suffix(spec: ClipSpec) -> str:
    return {"mpegts": "ts", "mp4": "mp4", "flv": "flv", "matroska": "mkv"}[spec.container]


def _ts(x264: str = clips.X264_IBBP) -> ClipSpec:
    return ClipSpec("mpegts", TB90, x264)


def _one(spec: ClipSpec, pts: Sequence[int] = EVEN, surgery: Surgery | None = None) -> tuple[Part, ...]:
    return (Part(pts, spec, surgery),)


def _from(start: int) -> tuple[int, ...]:
    return tuple(start + p for p in EVEN)


def _variable() -> tuple[int, ...]:
    rng = random.Random(3)
    pts = [0]
    while len(pts) < FRAMES:
        pts.append(pts[-1] + rng.randrange(1500, 4500))
    return tuple(pts)


def _moved(shift: dict[int, int]) -> Surgery:
    """PTS of pictures (by number in the file) moved by ticks."""

    def change(number: int, stamps: Stamps) -> Stamps:
        if number not in shift or stamps.pts is None:
            return stamps
        return Stamps((stamps.pts + shift[number]) % WRAP, stamps.dts)

    return lambda data: restamp(data, change)


def _missing(numbers: frozenset[int]) -> Surgery:
    return lambda data: restamp(data, lambda n, s: Stamps(None, None) if n in numbers else s)


def _dts_wrapped(data: bytes) -> bytes:
    """Only DTS count past 2^33: a sender with a bad DTS clock."""
    return restamp(data, lambda n, s: Stamps(s.pts, None if s.dts is None else (s.dts + WRAP - 5 * 90_000) % WRAP))


def _ms_clock(start: int = 0) -> tuple[int, ...]:
    return tuple(start + round(n * 1001 / 30) for n in range(FRAMES))


def _repeated_wrap() -> tuple[Part, ...]:
    """Three connections in a row, each crossing 2^33."""
    half = tuple(WRAP - 50 * 3000 + 3000 * n for n in range(100))
    return tuple(Part(half, _ts(clips.X264_PYRAMID), gap_ns=0 if n == 0 else 300 * MS) for n in range(3))


def _late_now_and_then(index: int, pipeline: str) -> tuple[Reply, ...]:
    return (Reply(400 * MS if index % 25 == 24 else 80 * MS),)


def _rivals(index: int, pipeline: str) -> tuple[Reply, ...]:
    """The better outcome first, then a lower version and a drop."""
    return Reply(60 * MS, version=2), Reply(70 * MS, version=1), Reply(80 * MS, version=None)


def _two_paces(index: int, pipeline: str) -> tuple[Reply, ...]:
    return (Reply(60 * MS if pipeline == "code" else 120 * MS),)


def _by_latency(latencies: Sequence[int]) -> Replies:
    return lambda index, pipeline: (Reply(latencies[index % len(latencies)]),)


def _kinds() -> list[Kind]:
    slow = lognormal()
    spread = {"replies": _by_latency(slow), "delay_ns": percentile(slow, 0.99)}
    pyramid, no_b = _ts(clips.X264_PYRAMID), _ts(clips.X264_NO_B)
    first = tuple(EVEN[:150])
    short = tuple(EVEN[:8])
    near = WRAP - 150 * 3000
    gone = frozenset({62, 63, 200})
    thirds = tuple(1001 * n for n in range(FRAMES))
    mp4_ns = ClipSpec("mp4", TB_NS, container_options=(("video_track_timescale", "1000000000"),))
    flv = ClipSpec("flv", TB1000, rate=NTSC)
    gap = tuple(3000 * n + (180_000 if n >= 100 else 0) for n in range(FRAMES))
    wall = lambda now: now + (3600 * NS_PER_S if 3 * NS_PER_S < now < 6 * NS_PER_S else 0)  # noqa: E731
    return [
        Kind("ibbp", "two B-frames between anchors", _one(_ts()), **spread),  # type: ignore[arg-type]
        Kind("pyramid", "three B-frames in a pyramid", _one(pyramid), path="turn", **spread),  # type: ignore[arg-type]
        Kind("open_gop", "open GOPs of 30", _one(_ts(clips.X264_OPEN_GOP)), path="stop", **spread),  # type: ignore[arg-type]
        Kind("no_b", "no B-frames: a DTS key passes here", _one(no_b), **spread),  # type: ignore[arg-type]
        Kind("vfr", "variable rate, 20 to 60 a second", _one(ClipSpec("mp4", TB90), _variable())),
        Kind("ntsc", "29.97 a second", _one(ClipSpec("mp4", TB_NTSC, rate=NTSC), thirds)),
        Kind("wrap_pts", "PTS wrap at the end, DTS do not", _one(pyramid, _from(WRAP - 298 * 3000)), sees_wrap=True),
        Kind("wrap_dts", "DTS wrap, PTS do not", _one(pyramid, EVEN, _dts_wrapped)),
        Kind("wrap_both", "PTS and DTS wrap", _one(pyramid, _from(near)), sees_wrap=True),
        Kind("wrap_file", "a file over the wrap, every third analysed", _one(pyramid, _from(near)), live=False, every=3,
             sees_wrap=True),
        Kind("wrap_repeated", "three connections, each over the wrap", _repeated_wrap(), epochs=3, sees_wrap=True),
        Kind("reconnect", "PTS from 0 again after 2 s of silence",
             (Part(first, _ts()), Part(first, _ts(), gap_ns=2 * NS_PER_S)), epochs=2, replies=steady(200 * MS)),
        Kind("reconnect_storm", "six short connections with the same stamps",
             tuple(Part(short, no_b) for _ in range(6)), epochs=6, replies=steady(300 * MS), delay_ns=500 * MS),
        Kind("restart", "the camera's clock starts anew without a reconnect",
             (Part(tuple(90_000_000 + p for p in first), no_b), Part(first, no_b, signalled=False)), epochs=2),
        Kind("stray", "single stamps hours away", _one(no_b, EVEN, _moved({70: 10 * HOUR, 130: -7 * HOUR})),
             drops=(("bad_pts", 2),)),
        Kind("missing", "two pictures without PTS", _one(_ts(), EVEN, _missing(frozenset({41, 80}))),
             drops=(("no_pts", 2),)),
        Kind("duplicate", "a picture with the PTS of another", _one(no_b, EVEN, _moved({81: -3000})),
             drops=(("duplicate_pts", 1),)),
        Kind("bad_order_near_wrap", "a stamp from before, right after the wrap",
             _one(_ts(), _from(near), _moved({160: -4500})), live=False, sees_wrap=True,
             drops=(("out_of_order", 1),)),
        Kind("lost", "packets of three B-frames that never arrived",
             (Part(EVEN, _ts(), lambda data: without_pictures(data, gone), lost=gone),)),
        Kind("flv", "FLV with B-frames at 29.97", _one(flv, _ms_clock())),
        Kind("flv_wrap", "FLV over its 31 bits of milliseconds", _one(flv, _ms_clock(FLV_WRAP - 5000))),
        Kind("tb_90k", "MP4 with a time base of 1/90000", _one(ClipSpec("mp4", TB90, clips.X264_PYRAMID))),
        Kind("tb_1ns", "MP4 with a time base of 1 ns", _one(mp4_ns, tuple(33_366_667 * n for n in range(FRAMES)))),
        Kind("late", "every 25th result comes after its frame was shown", _one(_ts()), replies=_late_now_and_then),
        Kind("every_fifth", "every fifth picture analysed", _one(_ts()), every=5),
        Kind("file", "a file, every second picture analysed", _one(ClipSpec("mp4", TB90)), live=False, every=2,
             path="turn"),
        Kind("gap", "two seconds without pictures, in which the square leaves; it returns 14 pictures later",
             _one(no_b, gap), every=3, absent=range(100, 114)),
        Kind("clock_jump", "the wall clock jumps by an hour, twice", _one(_ts()), wall=wall),
        Kind("rivals", "better and worse outcomes for one frame", _one(no_b), version=2, replies=_rivals),
        Kind("two_pipelines", "two models, one of them slower", _one(_ts()), pipelines=("code", "other"),
             replies=_two_paces),
    ]  # fmt: skip


KINDS: dict[str, Kind] = {kind.name: kind for kind in _kinds()}


def shorter(kind: Kind, frames: int) -> Kind:
    """The same kind with less of it, for a first look; drops that lie beyond it go."""
    parts = tuple(replace(part, pts=part.pts[:frames]) for part in kind.parts)
    return replace(kind, parts=parts)
