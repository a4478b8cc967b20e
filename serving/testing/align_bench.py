"""What the alignment core costs by itself: `python -m serving.testing.align_bench` prints one JSON document.

A stream of frames with `tracks` tracked boxes on every analysed one goes through the timeline, the mixer and the
accountant as `lockstep run` feeds them; nothing is decoded, drawn or encoded. Two figures: the mixer alone (frame,
posting, poll) and the whole core. Memory is what one stream's mixer, timeline and accountant hold in steady state,
the pictures aside.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import tracemalloc
from fractions import Fraction
from typing import Any

import numpy as np

from serving.align import (
    Accountant,
    CloseRule,
    LocalClaims,
    Mixer,
    MixerSettings,
    PacketIn,
    PictureIn,
    SourceTimeline,
    TimelineSettings,
    payload_hash,
)
from serving.frames import (
    AlignedFrame,
    Frame,
    FrameRecord,
    FrameResult,
    Outcome,
    Picture,
    Posting,
    SourceKind,
    StreamInfo,
)
from serving.types import Detections

PIPELINE = "person"
FPS = 25
NS_PER_S = 1_000_000_000
STEP_NS = NS_PER_S // FPS


class Stream:
    """One source's three parts. `step` is one frame; the answer comes `behind` frames later, as an engine's does."""

    def __init__(self, name: str, live: bool, every: int, behind: int = 2) -> None:
        info = StreamInfo(name, SourceKind.LIVE if live else SourceKind.FILE, Fraction(1, FPS), 768, 576, "h264")
        settings = TimelineSettings(window_ns=NS_PER_S // 4 if live else NS_PER_S, every=every)
        self.timeline = SourceTimeline(name, "bench", (PIPELINE,), LocalClaims(), settings)
        self.mixer = Mixer(name, MixerSettings(live=live))
        self.accountant = Accountant(CloseRule(live=live))
        self.timeline.open(info, 0)
        self._behind, self._number = behind, 0
        self._waiting: list[Frame] = []
        self._picture = Picture(load=_no_picture)

    def ingest(self) -> list[FrameRecord]:
        """The timeline's part of the next frame."""
        number, now_ns = self._number, self._number * STEP_NS
        self._number += 1
        records = list(self.timeline.packet(PacketIn(number, number, keyframe=number % 50 == 0), now_ns))
        records += self.timeline.picture(PictureIn(number, now_ns, self._picture, number), now_ns)
        return records

    def answers(self, records: list[FrameRecord], boxes: Detections, digest: str) -> list[Posting]:
        """The postings that come in now (the worker's part, not the core's)."""
        self._waiting += [record for record in records if isinstance(record, Frame) and record.analyse]
        newest = self._number - 1 - self._behind
        due = [frame for frame in self._waiting if frame.frame_seq <= newest]
        self._waiting = [frame for frame in self._waiting if frame.frame_seq > newest]
        result = FrameResult(PIPELINE, 1, "detection", boxes, digest)
        return [Posting(f.ledger_key(PIPELINE), f.pts_ns, Outcome.of_result(result)) for f in due]

    def mix(self, records: list[FrameRecord], postings: list[Posting]) -> list[AlignedFrame]:
        """The mixer's part; the frames it shows."""
        now_ns = self._number * STEP_NS
        shown: list[AlignedFrame] = []
        for record in records:
            shown += self.mixer.frame(record, now_ns)
        for posting in postings:
            self.mixer.post(posting, now_ns)
        return shown + self.mixer.poll(now_ns)

    def account(self, records: list[FrameRecord], postings: list[Posting]) -> None:
        """The accountant's part, with its tick once a second."""
        now_ns = self._number * STEP_NS
        for record in records:
            self.accountant.frame(record, now_ns)
        for posting in postings:
            self.accountant.post(posting, now_ns)
        if self._number % FPS == 0:
            self.accountant.tick(now_ns)


def _no_picture() -> Any:
    raise RuntimeError("align_bench: a picture was converted, expected the core to look at none")


def scene(tracks: int, steps: int = 64, seed: int = 5) -> list[tuple[Detections, str]]:
    """Detections of `tracks` walking tracks at as many times, with the hash that the worker gives along."""
    rng = np.random.default_rng(seed)
    place, speed = rng.uniform(0, 500, (tracks, 2)), rng.uniform(-3, 3, (tracks, 2))
    confidence, classes = np.full(tracks, 0.9, np.float32), np.zeros(tracks, np.int64)
    out = []
    for number in range(steps):
        corner = place + speed * number
        xyxy = np.concatenate([corner, corner + np.array([40, 110])], axis=1).astype(np.float32)
        boxes = Detections(xyxy, confidence, classes, np.arange(1, tracks + 1, dtype=np.int64))
        out.append((boxes, payload_hash(boxes)))
    return out


def measure(frames: int, tracks: int, every: int, live: bool) -> dict[str, Any]:
    """Microseconds a frame of CPU time, of the mixer and of the whole core; the process has one thread."""
    stream, boxes = Stream("bench", live, every), scene(tracks)
    spent = {"timeline": 0, "mixer": 0, "accountant": 0}
    shown = 0
    for number in range(frames + 100):
        if number == 100:
            spent, shown = dict.fromkeys(spent, 0), 0
        a = time.thread_time_ns()
        records = stream.ingest()
        b = time.thread_time_ns()
        postings = stream.answers(records, *boxes[number % len(boxes)])
        c = time.thread_time_ns()
        shown += len(stream.mix(records, postings))
        d = time.thread_time_ns()
        stream.account(records, postings)
        e = time.thread_time_ns()
        spent["timeline"] += b - a
        spent["mixer"] += d - c
        spent["accountant"] += e - d
    each = {name: ns / 1e3 / frames for name, ns in spent.items()}
    return {
        "live": live, "every": every, "tracks": tracks, "frames": frames, "shown": shown,
        "us_per_frame": each, "core_frames_per_s": 1e6 / sum(each.values()),
        "most_held": stream.mixer.counters.most_held,
        "bound": stream.mixer.settings.bound(NS_PER_S),
    }  # fmt: skip


def stream_bytes(tracks: int, every: int, live: bool, streams: int = 4, frames: int = 65 * FPS) -> float:
    """Bytes one stream holds after 65 s of frames: a live key is closed after 60 s, so this is as much as it gets."""
    boxes = scene(tracks)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    held = [Stream(f"bench{number}", live, every) for number in range(streams)]
    for number in range(frames):
        for stream in held:
            records = stream.ingest()
            postings = stream.answers(records, *boxes[number % len(boxes)])
            stream.mix(records, postings)
            stream.account(records, postings)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return grown / streams


def main() -> None:
    """Every k in {1, 5}, live and file, at 20 tracks; JSON on stdout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=3000)
    parser.add_argument("--tracks", type=int, default=20)
    options = parser.parse_args()
    rows = []
    for live in (True, False):
        for every in (1, 5):
            row = measure(options.frames, options.tracks, every, live)
            row["bytes_per_stream"] = stream_bytes(options.tracks, every, live)
            rows.append(row)
    sys.stdout.write(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
