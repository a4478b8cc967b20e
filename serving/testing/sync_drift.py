"""Ten minutes at timeline level: eighteen thousand pictures whose times must not drift by a nanosecond.

No codec: packets of numbers go through the timeline, the mixer and the accountant; only what is decoded and drawn is
left out. A rate of 29.97 and a wrap in the middle make every rounding count.
"""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np

from serving.align.unwrap import MPEG_TS_MODULUS
from serving.frames import Frame, Origin
from serving.testing.coded_stream import coded_stream
from serving.testing.sync_check import SyncScore
from serving.testing.sync_scene import SIDE, Parts, Played, Scene, box_at, play
from serving.testing.sync_score import judge, score

NAME = "drift"
FRAMES = 17_982  # 10 min at 30000/1001
STEP = 3003


def drift(parts: Parts | None = None) -> SyncScore:
    """Play it, and compare every PTS with n x 1001 x 10^9 / 30000, rounded half up."""
    packets = coded_stream("ibbp", [STEP] * FRAMES, start=MPEG_TS_MODULUS - STEP * FRAMES // 2, modulus=MPEG_TS_MODULUS)
    scene = Scene(NAME, packets, 1, modulus=MPEG_TS_MODULUS, rate=Fraction(30_000, 1001))
    played = play(scene, parts)
    found = score(scene, played)
    faults = list(judge(scene, played))
    frames = [record for record in played.records if isinstance(record, Frame)]
    off = [f.frame_seq for f in frames if f.pts_ns != (2 * f.frame_seq * STEP * 10**9 + 90_000) // 180_000]
    if off:
        faults.append(f"{len(off)} pictures have another PTS than their number says, the first is {off[0]}")
    errors, filled, ious, visible = _drawn(played, {packet.index: packet.true_ns for packet in packets})
    seconds = FRAMES * STEP / 90_000
    waits = [(s.released_mono_ns - s.frame.arrival_mono_ns) / 1e6 for s in played.shown] or [0.0]
    frame_ms = STEP / 90
    return SyncScore(
        kind=NAME,
        pictures=len(played.shown),
        measured_boxes=len(errors),
        filled_boxes=filled,
        exact=errors.count(0) / max(1, len(errors)),
        ae_mean=float(np.mean(errors)) if errors else 0.0,
        ae_p95=float(np.percentile(errors, 95)) if errors else 0.0,
        ae_max=max(errors, default=0),
        ae_max_ms=round(max(errors, default=0) * frame_ms, 3),
        measured=found.measured,
        coverage=found.coverage,
        toggles=sum(a != b for a, b in itertools.pairwise(visible)) / (seconds / 60),
        jumps=sum(a != b for a, b in itertools.pairwise(errors)) / seconds,
        iou=float(np.mean(ious)) if ious else 0.0,
        fill_error=found.fill_error,
        latency_p50_ms=round(float(np.median(waits)), 3),
        latency_max_ms=round(max(waits), 3),
        faults=tuple(faults),
    )


def _drawn(played: Played, true_ns: dict[int, int]) -> tuple[list[int], int, list[float], list[bool]]:
    """Errors of measured boxes in frames, count of filled boxes, overlaps with the truth, visibility by frame."""
    errors: list[int] = []
    ious: list[float] = []
    visible: list[bool] = []
    filled = 0
    for shown in played.shown:
        index = played.index_of[shown.frame.epoch, shown.frame.frame_seq]
        boxes, origin = shown.overlays[0].boxes, shown.overlays[0].origin
        visible.append(len(boxes) > 0)
        for box, class_id, how in zip(boxes.xyxy, boxes.class_id, origin, strict=True):
            overlap = max(0.0, SIDE - abs(float(box[0]) - float(box_at(true_ns[index])[0])))
            ious.append(overlap / (2 * SIDE - overlap))
            if how == Origin.MEASURED.value:
                errors.append(abs(int(class_id) - index))
            else:
                filled += 1
    return errors, filled, ious, visible
