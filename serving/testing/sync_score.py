"""Compares a played scene with the truth: which box on which picture, in which order, with what account."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from serving.frames import AlignedFrame, Frame, Origin
from serving.testing.coded_stream import NS_PER_S, CodedPacket
from serving.testing.sync_scene import SPEED, Played, Scene, box_at
from serving.types import FloatArray


@dataclass(frozen=True, slots=True)
class Score:
    """exact: share of measured boxes on their own frame. measured: share of analysed frames with a measured box.
    coverage: share of frames with the object that have a box. fill_error: 95th percentile, in frames.
    """

    exact: float
    measured: float
    coverage: float
    fill_error: float
    wrong: tuple[str, ...]


def score(scene: Scene, played: Played) -> Score:
    """Compare every drawn box with the truth."""
    by_index = {packet.index: packet for packet in scene.packets}
    tally: Counter[str] = Counter()
    wrong: list[str] = []
    errors: list[float] = []
    for shown, pipeline, box in _boxes(played):
        index = played.index_of[shown.frame.epoch, shown.frame.frame_seq]
        tally["wanted"] += shown.frame.analyse
        tally["places"] += index not in scene.absent
        if box is None:
            continue
        if index in scene.absent:
            wrong.append(f"box drawn on picture {index}, which is without the object")
            continue
        tally["covered"] += 1
        xyxy, class_id, tracker_id, origin = box
        if scene.pipelines[tracker_id] != pipeline:
            wrong.append(f"box of pipeline {scene.pipelines[tracker_id]} drawn under {pipeline}")
        if origin == 0:
            tally["measured"] += 1
            tally["exact"] += class_id == index
            if class_id != index:
                wrong.append(f"measured box of picture {class_id} drawn on {index}")
        else:
            way = abs(float(xyxy[0]) - float(box_at(by_index[index].true_ns)[0]))
            errors.append(way / (SPEED * NS_PER_S / 30))
    return Score(
        exact=tally["exact"] / max(1, tally["measured"]),
        measured=tally["measured"] / max(1, tally["wanted"]),
        coverage=tally["covered"] / max(1, tally["places"]),
        fill_error=float(np.percentile(errors, 95)) if errors else 0.0,
        wrong=tuple(wrong[:5]),
    )


def _boxes(
    played: Played,
) -> Iterator[tuple[AlignedFrame, str, tuple[FloatArray, int, int, int] | None]]:
    for shown in played.shown:
        for overlay in shown.overlays:
            boxes = overlay.boxes
            if not len(boxes):
                yield shown, overlay.pipeline, None
                continue
            ids = boxes.tracker_id
            track = int(ids[0]) if ids is not None else -1
            yield shown, overlay.pipeline, (boxes.xyxy[0], int(boxes.class_id[0]), track, int(overlay.origin[0]))


def judge(scene: Scene, played: Played) -> list[str]:
    """What is wrong with a played scene; empty if nothing is."""
    found = score(scene, played)
    faults = list(found.wrong)
    if found.measured < scene.min_measured:
        faults.append(f"measured boxes on {found.measured:.1%} of the analysed frames")
    if found.coverage < scene.min_coverage:
        faults.append(f"coverage {found.coverage:.1%}")
    if found.fill_error > scene.max_fill_error:
        faults.append(f"fill error {found.fill_error:.2f} frames")
    faults += _reach_faults(played) + _order_faults(scene, played)
    return faults + _pts_faults(scene, played) + _account_faults(scene, played)


def _reach_faults(played: Played) -> list[str]:
    """Filled boxes need a measurement known at release, at most a second back in the same epoch."""
    for shown, pipeline, box in _boxes(played):
        if box is None or box[3] == Origin.MEASURED.value:
            continue
        frame = shown.frame
        known = [
            pts
            for (epoch, pts, name), at in played.results_ns.items()
            if epoch == frame.epoch and name == pipeline and pts <= frame.pts_ns and at <= shown.released_mono_ns
        ]
        if not known or frame.pts_ns - max(known) > NS_PER_S:
            return [f"box filled over more than a second, at {frame.pts_ns} ns of epoch {frame.epoch}"]
    return []


def _order_faults(scene: Scene, played: Played) -> list[str]:
    faults = []
    keys = [(shown.frame.epoch, shown.frame.pts_ns) for shown in played.shown]
    outs = [shown.out_pts_ns for shown in played.shown]
    if any(b <= a for a, b in itertools.pairwise(keys)):
        faults.append("frames not in strictly rising (epoch, pts_ns)")
    if any(b <= a for a, b in itertools.pairwise(outs)):
        faults.append("output time does not rise")
    frame_ns = max((b.true_ns - a.true_ns for a, b in _in_order(scene)), default=0) * (scene.depth + 1)
    due = [(s.released_mono_ns, s.deadline_mono_ns) for s in played.shown if s.deadline_mono_ns is not None]
    late = sum(released > deadline + frame_ns for released, deadline in due)
    if late:
        faults.append(f"{late} frames shown after their deadline")
    delays = (s.released_mono_ns - s.frame.arrival_mono_ns for s in played.shown)
    if due and max(delays) > scene.delay_ns + frame_ns:
        faults.append("added latency beyond D and a frame")
    return faults


def _in_order(scene: Scene) -> Iterator[tuple[CodedPacket, CodedPacket]]:
    """Neighbouring pictures of one connection."""
    packets = sorted(scene.packets, key=lambda packet: packet.index)
    return ((a, b) for a, b in itertools.pairwise(packets) if a.connection == b.connection)


def _pts_faults(scene: Scene, played: Played) -> list[str]:
    true = {packet.index: packet.true_ns for packet in scene.packets}
    first: dict[int, int] = {}
    for record in played.records:
        if not isinstance(record, Frame):
            continue
        index = played.index_of[record.epoch, record.frame_seq]
        base = first.setdefault(record.epoch, true[index])
        if abs(record.pts_ns - (true[index] - base)) > 1 and record.raw_pts is not None:
            return [f"picture {index} has pts_ns {record.pts_ns}, expected {true[index] - base}"]
    return []


def _account_faults(scene: Scene, played: Played) -> list[str]:
    faults = []
    assert played.timeline is not None
    drops = {reason: n for reason, n in played.timeline.counters.by_reason.items() if n}
    if drops != scene.drops:
        faults.append(f"dropped at ingest {drops}, expected {scene.drops}")
    if played.timeline.counters.epochs != scene.epochs:
        faults.append(f"{played.timeline.counters.epochs} epochs, expected {scene.epochs}")
    for pipeline in scene.pipelines:
        balance = played.accountant.total("scene", pipeline)
        if not balance.holds or balance.in_flight:
            faults.append(f"ledger of {pipeline} does not balance: {balance}")
    accepted = sum(isinstance(record, Frame) for record in played.records)
    if len(played.shown) != accepted:
        faults.append(f"{len(played.shown)} frames shown of {accepted}")
    versions = {
        o.outcome.result.model_version
        for s in played.shown
        for o in s.overlays
        if o.outcome is not None and o.outcome.result is not None
    }
    if versions - {scene.version}:
        faults.append(f"results of versions {sorted(versions)} shown, expected {scene.version}")
    return faults
