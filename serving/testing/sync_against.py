"""`lockstep sync-test --against URL`: the measure of docs/sync-test.md on a distributed system that runs already.

numbered clips -> sent live -> registered over REST -> whatever the system does -> its HLS -> numbers -> score

It is a stranger there: it knows the gateway's address and nothing else, and it judges by pixels. Each picture of the
mixed video carries its own number, and the box drawn on it has the place of the picture that it was computed from. The
table beside a segment says what the system believes it drew; the bits that the model read say it a third time.
"""

from __future__ import annotations

import json
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from serving.adapters.video import AddressSource
from serving.adapters.video.clips import ClipSpec, write_clip
from serving.adapters.video.live import send_live
from serving.clock import SystemClock
from serving.errors import Unavailable
from serving.media import PictureSeen
from serving.testing.sync_code import PATHS, picture, read_own
from serving.testing.sync_foreign import DIFFERS, number_of_box
from serving.testing.sync_model import number_of_bits
from serving.types import PixelArray

FPS, FRAMES = 15, 450
GOP = "keyint=15:min-keyint=15:open-gop=0:repeat-headers=1"
KINDS: Mapping[str, str] = {
    "ibbp": f"bframes=2:b-adapt=0:b-pyramid=none:scenecut=0:{GOP}",
    "pyramid": f"bframes=3:b-adapt=0:b-pyramid=normal:scenecut=0:{GOP}",
}
MIN_COVERAGE, MIN_MEASURED = 0.99, 0.95
FIRST_S, ANSWER_S, LOOK_S = 60.0, 35.0, 0.5
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class AgainstOptions:
    """url: of the gateway. seconds: of mixed video that are judged, of each source. model: such as sync_code.

    host: where the system's ingest listens for the test's UDP; it must be an allowed host there.
    """

    url: str
    seconds: float = 20.0
    delay_ms: int = 1000
    model: str = "sync_code"
    host: str = "127.0.0.1"


@dataclass(slots=True)
class AgainstScore:
    """One source. before: pictures before the first box. errors: number of the box's picture minus the picture's own.

    differing: measured pictures whose three accounts (pixels, bits, table) do not say the same.
    """

    source_id: str
    pictures: int = 0
    before: int = 0
    unreadable: int = 0
    with_box: int = 0
    analysed: int = 0
    measured: int = 0
    differing: int = 0
    errors: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def exact(self) -> float:
        """Share of measured boxes on the very picture that they were computed from."""
        return self.errors.count(0) / len(self.errors) if self.errors else 0.0

    @property
    def coverage(self) -> float:
        """Share of pictures with a box, from the first box on."""
        return self.with_box / self.pictures if self.pictures else 0.0

    def judge(self) -> None:
        """Name every bound that was missed."""
        size = max((abs(error) for error in self.errors), default=0)
        if not self.measured:
            self.faults.append("no measured box was drawn")
        if self.exact < 1 or self.differing:
            self.faults.append(f"measured boxes exact {self.exact:.2%}, up to {size} pictures off, expected 100 %")
        if self.differing:
            self.faults.append(f"{self.differing} pictures whose bits or table say another number than their pixels")
        if self.coverage < MIN_COVERAGE:
            self.faults.append(f"coverage {self.coverage:.2%}, expected {MIN_COVERAGE:.0%}")
        if self.measured < MIN_MEASURED * self.analysed:
            self.faults.append(f"measured boxes on {self.measured} of {self.analysed} analysed pictures")
        if self.unreadable:
            self.faults.append(f"{self.unreadable} pictures without a readable number")

    def to_document(self) -> dict[str, Any]:
        """For `--json`."""
        size = [abs(error) for error in self.errors] or [0]
        figures = {k: v for k, v in asdict(self).items() if k != "errors"}
        return figures | {"exact": self.exact, "coverage": self.coverage, "ae_max": max(size), "ok": not self.faults}


@dataclass(frozen=True, slots=True)
class AgainstReport:
    """All sources."""

    url: str
    scores: tuple[AgainstScore, ...]

    @property
    def ok(self) -> bool:
        """Exit status 0."""
        return bool(self.scores) and not any(found.faults for found in self.scores)

    def to_document(self) -> dict[str, Any]:
        """For `--json`."""
        return {"ok": self.ok, "against": self.url, "sources": [found.to_document() for found in self.scores]}

    def text(self) -> str:
        """A table for people."""
        lines = [f"{'source':<28} pictures measured  exact  cover  AE max"]
        for found in self.scores:
            size = max((abs(error) for error in found.errors), default=0)
            figures = f"{found.pictures:8} {found.measured:8} {found.exact:6.1%} {found.coverage:6.1%} {size:7}"
            lines.append(f"{found.source_id:<28} {figures}  {'FAULT' if found.faults else 'ok'}")
            lines += [f"  {fault}" for fault in found.faults]
        return "\n".join([*lines, f"sync-test against {self.url}: {'passed' if self.ok else 'FAILED'}"])


def sync_against(options: AgainstOptions, say: Say) -> AgainstReport:
    """Send, register, read, judge, and take it all away again. Raises Unavailable with what the gateway answered."""
    with tempfile.TemporaryDirectory(prefix="sync-") as scratch, ExitStack() as stack:
        tag, watched = uuid.uuid4().hex[:6], []
        clips = {kind: _make_clip(Path(scratch) / f"{kind}.mp4", x264, say) for kind, x264 in KINDS.items()}
        for kind, clip in clips.items():  # once all are made: an encoder beside a measured source takes its cores
            address = stack.enter_context(_sent(clip, options.host))
            source_id = f"sync-{kind}-{tag}"
            stack.enter_context(_registered(options, source_id, address))
            watched.append(_Watched(options, source_id, Path(scratch)))
        _watch(watched, options, say)
        for one in watched:
            one.look_at_state()
            one.score.judge()
    return AgainstReport(options.url, tuple(one.score for one in watched))


def _watch(watched: list[_Watched], options: AgainstOptions, say: Say) -> None:
    """Until every source has shown enough, or nothing new came for too long."""
    patience_s = FIRST_S + 2 * options.delay_ms / 1000
    heard = said = time.monotonic()
    while not all(one.has_enough for one in watched):
        now = time.monotonic()
        if sum(one.look() for one in watched):  # every one of them
            heard = now
        if now - said > 5:
            said = now
            say("  ".join(f"{one.score.source_id}: {one.score.pictures} pictures" for one in watched))
        if now - heard > patience_s:
            for one in watched:
                if not one.has_enough:
                    one.score.faults.append(f"no new segment of mixed video for {patience_s:.0f} s: {one.why()}")
            return
        time.sleep(LOOK_S)


class _Watched:
    """One source's HLS, segment by segment."""

    def __init__(self, options: AgainstOptions, source_id: str, scratch: Path) -> None:
        self._options, self._scratch = options, scratch
        self._base = f"{options.url}/v1/streams/{source_id}"
        self._next, self._index, self._inits = 0, -1, dict[str, bytes]()
        self._track = [PATHS["linear"](n / FPS) for n in range(FRAMES)]
        self.score = AgainstScore(source_id)

    @property
    def has_enough(self) -> bool:
        """So many pictures were judged, or it will not get better."""
        return self.score.pictures >= self._options.seconds * FPS or bool(self.score.faults)

    def look(self) -> bool:
        """Judge segments that are new; whether there was one."""
        playlist = _get(f"{self._base}/hls/index.m3u8", missing=b"").decode()
        new = False
        for init, name in _segments(playlist):
            number = int(name[8:-4])
            if number < self._next or self.has_enough:
                continue
            if number > self._next:
                self.score.faults.append(f"segments {self._next} to {number - 1} of the mixed video are missing")
            self._next, new = number + 1, True
            self._judge(init, name)
        return new

    def look_at_state(self) -> None:
        """What the system says of the alignment itself must not be better than what was seen."""
        state = json.loads(_get(self._base, missing=b"{}")).get("state") or {}
        if (state.get("alignment") or {}).get("aligned") is False:
            self.score.faults.append(f"the system reports results that belong to other frames: {state['alignment']}")

    def why(self) -> str:
        """What the gateway says of a source that shows nothing."""
        state = json.loads(_get(self._base, missing=b"{}")).get("state") or {}
        return f"running {state.get('running')}, fps_in {state.get('fps_in')}, error {state.get('error')}"

    def _judge(self, init: str, name: str) -> None:
        if init not in self._inits:
            self._inits[init] = _get(f"{self._base}/hls/{init}")
        path = self._scratch / f"{self.score.source_id}.mp4"
        path.write_bytes(self._inits[init] + _get(f"{self._base}/hls/{name}"))
        rows = json.loads(_get(f"{self._base}/hls/{name[:-4]}.json"))["frames"]
        shown = list(_pictures(path))
        if len(shown) != len(rows) or [tick for tick, _ in shown] != [row["out_tick"] for row in rows]:
            self.score.faults.append(f"{name}: its table is not that of its {len(shown)} pictures")
            return
        for (_, rgb), row in zip(shown, rows, strict=True):
            self._picture(rgb, row)

    def _picture(self, rgb: PixelArray, row: Mapping[str, Any]) -> None:
        score, own = self.score, read_own(rgb)
        boxes = [box for overlay in row["overlays"] for box in overlay["detections"]]
        if not score.with_box and not boxes:
            score.before += 1
            return
        score.pictures += 1
        score.analysed += 1
        if own is None or own[1] >= FRAMES:
            score.unreadable += 1
            return
        if own[1] == self._index:
            score.faults.append(f"picture {own[1]} was shown twice")
        self._index = own[1]
        clean = picture(own[1], own[0], self._track[own[1]])
        drawn = number_of_box(np.abs(rgb.astype(np.int16) - clean).max(axis=2) > DIFFERS, self._track, own[1])
        score.with_box += drawn is not None
        if not any(box["origin"] == "measured" for box in boxes):
            return
        score.measured += 1
        number = number_of_bits(box["class_id"] for box in boxes)
        score.errors.append(number - own[1])
        score.differing += drawn != own[1]


def _make_clip(path: Path, x264: str, say: Say) -> Path:
    say(f"{path.stem}: making the clip")
    spec = ClipSpec("mp4", Fraction(1, 90_000), x264, Fraction(FPS))
    shown = ((picture(n, 0, PATHS["linear"](n / FPS)), n * 90_000 // FPS) for n in range(FRAMES))
    write_clip(path, spec, shown)
    return path


@contextmanager
def _sent(clip: Path, host: str) -> Iterator[str]:
    """A clip as a camera; gives the address that ingest is to read."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as place:
        place.bind(("", 0))
        address = f"udp://{host}:{place.getsockname()[1]}"
    over = threading.Event()
    thread = threading.Thread(target=send_live, args=(clip, address, SystemClock(), over.wait), daemon=True)
    thread.start()
    try:
        yield address
    finally:
        over.set()
        thread.join(5)


@contextmanager
def _registered(options: AgainstOptions, source_id: str, address: str) -> Iterator[None]:
    """The source, registered for the block. Raises Unavailable."""
    wanted = {
        "source_id": source_id, "address": address, "pipelines": [options.model], "delay_ms": options.delay_ms,
        "mixed": True, "captions": False, "max_fps": 2 * FPS,
    }  # fmt: skip
    _ask("POST", f"{options.url}/v1/streams", wanted)
    try:
        yield
    finally:
        with suppress(Unavailable):
            _ask("DELETE", f"{options.url}/v1/streams/{source_id}")


def _segments(playlist: str) -> Iterator[tuple[str, str]]:
    """(init file, segment) of a playlist (RFC 8216)."""
    init = ""
    for line in playlist.splitlines():
        if line.startswith("#EXT-X-MAP:"):
            init = line.split('"')[1]
        elif line and not line.startswith("#"):
            yield init, line


def _pictures(path: Path) -> Iterator[tuple[int | None, PixelArray]]:
    for event in AddressSource("mixed", str(path)).connect().events():
        if isinstance(event, PictureSeen):
            yield event.raw_pts, event.picture.rgb()


def _get(url: str, missing: bytes | None = None) -> bytes:
    """missing: the answer where there is nothing yet (404)."""
    return _ask("GET", url, missing=missing)


def _ask(method: str, url: str, body: Any = None, missing: bytes | None = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data, {"Content-Type": "application/json", "X-Request-Timeout-Ms": "30000"}, method=method
    )
    for attempt in range(3):
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                said = error.read().decode(errors="replace")[:300]
            if error.code == 404 and missing is not None:
                return missing
            if error.code not in (429, 503, 504) or attempt == 2:
                raise Unavailable(f"{method} {url}: {error.code} {said}") from error
        except (OSError, ValueError) as error:
            if attempt == 2 or isinstance(error, ValueError):
                raise Unavailable(f"{method} {url}: {error}", hint="is a gateway with streams there?") from error
        time.sleep(1.0)
    raise AssertionError("unreachable")
