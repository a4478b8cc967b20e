"""Scores of multi-object tracking: CLEAR (MOTA, MOTP), identity (IDF1) and HOTA, by `trackers.eval`.

Sources: Bernardin and Stiefelhagen 2008 (CLEAR), Ristani et al. 2016 (IDF1), Luiten et al. 2021 (HOTA). On the TUD
sequences the figures equal those of the MOTChallenge devkit; HOTA is held against `trackeval`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from trackers.eval import box_iou, compute_clear_metrics, compute_hota_metrics, compute_identity_metrics

from serving.errors import InputError
from serving.types import FloatArray, IntArray

PEDESTRIAN = 1


@dataclass(frozen=True, slots=True)
class TrackedBoxes:
    """The boxes of one frame. ids: int64 [n], no id twice; xyxy: float32 [n, 4] in pixels."""

    ids: IntArray
    xyxy: FloatArray

    def __post_init__(self) -> None:
        if self.xyxy.shape != (len(self.ids), 4) or len(set(self.ids.tolist())) != len(self.ids):
            raise ValueError(f"TrackedBoxes: expected [n] ids without repeats and [n, 4] boxes, got {self}")


Tracks = Mapping[int, TrackedBoxes]
NOTHING = TrackedBoxes(np.empty(0, np.int64), np.empty((0, 4), np.float32))


@dataclass(frozen=True, slots=True)
class TrackingScores:
    """Shares in 0..1 (mota may be below 0) and counts."""

    mota: float
    motp: float
    idf1: float
    hota: float
    recall: float
    precision: float
    false_positives: int
    misses: int
    id_switches: int


def read_mot(path: Path, truth: bool = False) -> dict[int, TrackedBoxes]:
    """A MOTChallenge text file: frame,id,left,top,width,height,confidence,class,... by frame number.

    truth: rows whose confidence is 0 are marked as not to be scored; in files of nine columns (MOT16 and later) the
    eighth is a class, and only pedestrians count. Raises InputError naming the line.
    """
    rows: dict[int, dict[int, list[float]]] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = [float(word) for word in line.split(",")]
            frame, track, left, top, width, height = values[:6]
        except ValueError as error:
            raise InputError(f"{path}:{number}: expected frame,id,left,top,width,height,..., got {line!r}") from error
        if truth and ((len(values) > 6 and values[6] == 0) or (len(values) == 9 and values[7] != PEDESTRIAN)):
            continue
        boxes = rows.setdefault(int(frame), {})
        if int(track) in boxes:
            raise InputError(f"{path}:{number}: frame {int(frame)} has track {int(track)} twice")
        boxes[int(track)] = [left, top, left + width, top + height]
    return {
        frame: TrackedBoxes(np.array(list(found), np.int64), np.array(list(found.values()), np.float32))
        for frame, found in rows.items()
    }


def score_tracks(truth: Tracks, found: Tracks, iou: float = 0.5) -> TrackingScores:
    """Score one sequence; a frame that one side lacks counts as empty there."""
    frames = sorted({*truth, *found})
    real = [truth.get(frame, NOTHING) for frame in frames]
    ours = [found.get(frame, NOTHING) for frame in frames]
    overlaps = [box_iou(a.xyxy, b.xyxy) for a, b in zip(real, ours, strict=True)]
    real_ids, our_ids = _dense(boxes.ids for boxes in real), _dense(boxes.ids for boxes in ours)
    clear = compute_clear_metrics(real_ids, our_ids, overlaps, iou)
    identity = compute_identity_metrics(real_ids, our_ids, overlaps, iou)
    hota = compute_hota_metrics(real_ids, our_ids, overlaps)
    return TrackingScores(
        mota=float(clear["MOTA"]),
        motp=float(clear["MOTP"]),
        idf1=float(identity["IDF1"]),
        hota=float(hota["HOTA"]),
        recall=float(clear["CLR_Re"]),
        precision=float(clear["CLR_Pr"]),
        false_positives=int(clear["CLR_FP"]),
        misses=int(clear["CLR_FN"]),
        id_switches=int(clear["IDSW"]),
    )


def _dense(columns: Iterable[IntArray]) -> list[IntArray]:
    """Ids as 0, 1, 2 ... in order of appearance: the metrics count by index."""
    known: dict[int, int] = {}
    return [np.array([known.setdefault(i, len(known)) for i in ids.tolist()], np.int64) for ids in columns]
