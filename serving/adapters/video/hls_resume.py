"""Where an HLS folder ended: what is listed, and the last frame of the last whole segment.

A writer that goes on there keeps media sequence and init numbers going; a mixer shows no frame twice.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.frames import FrameKey

_NAME = re.compile(r"segment-(\d{5,})\.m4s\Z")
_INIT = re.compile(r'#EXT-X-MAP:URI="(init-(\d{3,})\.mp4)"\Z')


@dataclass(frozen=True, slots=True)
class Listed:
    """A segment as the playlist has it; seconds: its length."""

    number: int
    seconds: float
    init: str
    discontinuity: bool


@dataclass(frozen=True, slots=True)
class HlsPlace:
    """listed: segments in the playlist; older: before them, still on disk. inits: init segments so far.
    discontinuities: those before the first listed."""

    listed: tuple[Listed, ...] = ()
    older: tuple[Listed, ...] = ()
    inits: int = 0
    discontinuities: int = 0
    target_s: float = 0.0

    @property
    def next_number(self) -> int:
        """Of the next segment."""
        return self.listed[-1].number + 1 if self.listed else 0


@dataclass(frozen=True, slots=True)
class LastShown:
    """The last frame of the last whole segment, its output time, and who claimed its epoch ('': nobody said)."""

    key: FrameKey
    frame_seq: int
    out_pts_ns: int
    ingest_id: str


def last_place(folder: Path) -> HlsPlace | None:
    """None where there is no playlist of ours, or nothing in it; what is there is begun anew then."""
    try:
        lines = (folder / "index.m3u8").read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    listed: list[Listed] = []
    init, inits, seconds, cut, before, target = "", 0, 0.0, False, 0, 0.0
    for line in lines:
        if found := _INIT.match(line):
            init, inits = found[1], max(inits, int(found[2]))
        elif line.startswith("#EXTINF:"):
            seconds = _number(line[8:].rstrip(","))
        elif line == "#EXT-X-DISCONTINUITY":
            cut = True
        elif line.startswith("#EXT-X-DISCONTINUITY-SEQUENCE:"):
            before = int(_number(line.partition(":")[2]))
        elif line.startswith("#EXT-X-TARGETDURATION:"):
            target = _number(line.partition(":")[2])
        elif found := _NAME.match(line):
            if (folder / line).is_file() and (folder / init).is_file():
                listed.append(Listed(int(found[1]), seconds, init, cut))
            cut = False
    if not listed:
        return None
    numbers = sorted(int(found[1]) for path in folder.glob("segment-*.m4s") if (found := _NAME.match(path.name)))
    older = tuple(Listed(number, 0.0, "", False) for number in numbers if number < listed[0].number)
    return HlsPlace(tuple(listed), older, inits, before, max(0.0, target - 0.5))


def last_shown(folder: Path) -> LastShown | None:
    """By the table beside the last listed segment; None where there is none that can be read."""
    place = last_place(folder)
    if place is None:
        return None
    try:
        table: Any = json.loads((folder / f"segment-{place.listed[-1].number:05d}.json").read_bytes())
        frame = table["frames"][-1]
        key = FrameKey(str(frame["key"]["source_id"]), int(frame["key"]["epoch"]), int(frame["key"]["pts_ns"]))
        return LastShown(key, int(frame["frame_seq"]), int(frame["out_pts_ns"]), str(frame.get("ingest_id", "")))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
