"""Reads the codes back from a mixed video's pixels and says how well boxes and pictures belong together."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from serving.adapters.video import AddressSource
from serving.frames import Origin
from serving.media import PictureSeen, StreamOpened
from serving.testing.sync_clips import NS_PER_S, Kind
from serving.testing.sync_code import SIDE, SPEED, Drawn, read_drawn, read_own
from serving.testing.sync_play import Played

RATE = 30.0
# What every kind must reach (docs/alignment.md, "Score").
MIN_MEASURED, MIN_COVERAGE, MAX_FILL_ERROR, MAX_TOGGLES = 0.95, 0.99, 0.5, 1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One picture of the mixed video: its time, its own number, and what is drawn on it, by strip."""

    seconds: Fraction
    index: int
    drawn: tuple[Drawn | None, ...]


@dataclass(frozen=True, slots=True)
class SyncScore:
    """Figures of docs/sync-test.md. exact, ae_*: measured boxes only; fill_error in frames of the path's speed.

    measured: analysed pictures with their measured box, share of those that were to be analysed. toggles: changes of
    visibility per object-minute. jumps: changes of alignment error a second. latency in ms: what the mixer adds.
    """

    kind: str
    pictures: int
    measured_boxes: int
    filled_boxes: int
    exact: float
    ae_mean: float
    ae_p95: float
    ae_max: int
    ae_max_ms: float
    measured: float
    coverage: float
    toggles: float
    jumps: float
    iou: float
    fill_error: float
    latency_p50_ms: float
    latency_max_ms: float
    faults: tuple[str, ...] = ()
    errors: tuple[int, ...] = field(default=(), repr=False)  # alignment error of each picture, for the picture

    @property
    def ok(self) -> bool:
        """No fault."""
        return not self.faults


def read_mixed(path: Path, strips: int) -> Iterator[Seen]:
    """Every picture of a mixed video. ValueError where a code cannot be read."""
    base = Fraction(1)
    for event in AddressSource("mixed", str(path)).connect().events():
        if isinstance(event, StreamOpened):
            base = event.info.time_base
        elif isinstance(event, PictureSeen):
            rgb = event.picture.rgb()
            own = read_own(rgb)
            if own is None or event.raw_pts is None:
                raise ValueError(f"{path.name}: the picture at {event.raw_pts} carries no readable number")
            yield Seen(event.raw_pts * base, own[1], tuple(read_drawn(rgb, strip) for strip in range(strips)))


def score(kind: Kind, played: Played) -> SyncScore:
    """Read the mixed video and compare it with the truth."""
    seen = list(read_mixed(played.output, len(kind.pipelines)))
    true_s = {n: t / NS_PER_S for n, t in played.true_ns.items()}
    errors: list[int] = []
    ms, ious, fills = [], [], []
    tally: Counter[str] = Counter()
    for picture in seen:
        centre = kind.centre(picture.index, played.true_ns[picture.index])
        if centre is None:
            continue
        for drawn in picture.drawn:
            tally["places"] += 1
            if drawn is None:
                continue
            tally["covered"] += 1
            ious.append(_iou((drawn.cx, drawn.cy), centre))
            if drawn.origin is Origin.MEASURED:
                errors.append(abs(drawn.index - picture.index))
                ms.append(abs(true_s.get(drawn.index, 1e9) - true_s[picture.index]) * 1e3)
            else:
                fills.append(float(np.hypot(drawn.cx - centre[0], drawn.cy - centre[1])) / (SPEED / RATE))
    wanted = sum(b.accepted - b.not_sampled - sum(played.drops.values()) for b in played.balances.values())
    seconds = float(seen[-1].seconds - seen[0].seconds) if len(seen) > 1 else 1.0
    latencies = [total / 1e6 for total, _ in played.released] or [0.0]
    result = SyncScore(
        kind=kind.name,
        pictures=len(seen),
        measured_boxes=len(errors),
        filled_boxes=len(fills),
        exact=errors.count(0) / len(errors) if errors else 0.0,
        ae_mean=float(np.mean(errors)) if errors else 0.0,
        ae_p95=float(np.percentile(errors, 95)) if errors else 0.0,
        ae_max=max(errors, default=0),
        ae_max_ms=round(max(ms, default=0.0), 3),
        measured=len(errors) / max(1, wanted),
        coverage=tally["covered"] / max(1, tally["places"]),
        toggles=_toggles(kind, seen) / max(1e-9, seconds / 60),
        jumps=_jumps(seen) / max(1e-9, seconds),
        iou=float(np.mean(ious)) if ious else 0.0,
        fill_error=float(np.percentile(fills, 95)) if fills else 0.0,
        latency_p50_ms=round(float(np.median(latencies)), 3),
        latency_max_ms=round(max(latencies), 3),
    )
    return _with(result, tuple(_faults(kind, played, seen, result)), tuple(_series(seen)))


def _with(found: SyncScore, faults: tuple[str, ...], errors: tuple[int, ...]) -> SyncScore:
    return replace(found, faults=faults, errors=errors)


def _iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    width, height = (max(0.0, SIDE - abs(p - q)) for p, q in zip(a, b, strict=True))
    both = width * height
    return both / (2 * SIDE * SIDE - both)


def _toggles(kind: Kind, seen: Sequence[Seen]) -> int:
    """Changes between drawn and not drawn that the object itself does not make. The first appearance is none."""
    count = 0
    for strip in range(len(seen[0].drawn) if seen else 0):
        states = [(picture.drawn[strip] is not None, picture.index not in kind.absent) for picture in seen]
        first = next((place for place, (visible, _) in enumerate(states) if visible), len(states))
        changes = itertools.pairwise(states[first:])
        count += sum(before[0] != after[0] and before[1] == after[1] for before, after in changes)
    return count


def _series(seen: Sequence[Seen]) -> Iterator[int]:
    """Signed alignment error of each picture's first measured box; 0 where nothing measured is drawn."""
    for picture in seen:
        drawn = next((d for d in picture.drawn if d is not None and d.origin is Origin.MEASURED), None)
        yield drawn.index - picture.index if drawn is not None else 0


def _jumps(seen: Sequence[Seen]) -> int:
    errors = list(_series(seen))
    return sum(a != b for a, b in itertools.pairwise(errors))


def _faults(kind: Kind, played: Played, seen: Sequence[Seen], found: SyncScore) -> Iterator[str]:
    if not found.measured_boxes:
        yield "no measured box was drawn"
    if found.exact < 1:
        yield f"measured boxes exact {found.exact:.1%}, expected 100 %"
    if found.measured < MIN_MEASURED:
        yield f"measured boxes on {found.measured:.1%} of the analysed pictures, expected {MIN_MEASURED:.0%}"
    if found.coverage < MIN_COVERAGE:
        yield f"coverage {found.coverage:.1%}, expected {MIN_COVERAGE:.0%}"
    if found.fill_error > MAX_FILL_ERROR:
        yield f"fill error p95 {found.fill_error:.2f} frames, expected {MAX_FILL_ERROR}"
    if found.toggles > MAX_TOGGLES:
        yield f"{found.toggles:.1f} toggles per object-minute, expected {MAX_TOGGLES:g}"
    if ghosts := sum(d is not None for p in seen if p.index in kind.absent for d in p.drawn):
        yield f"{ghosts} boxes drawn on pictures without the object"
    if kind.live and found.latency_max_ms > kind.delay_ns / 1e6 + 1000 / RATE + 1:
        yield f"added latency up to {found.latency_max_ms:.0f} ms, expected D of {kind.delay_ns / 1e6:.0f} and a frame"
    if foreign := _foreign(seen):
        yield f"{foreign} boxes drawn under another pipeline"
    yield from _order_faults(kind, played, seen)
    yield from _account_faults(kind, played)


def _foreign(seen: Sequence[Seen]) -> int:
    """Boxes under another pipeline's name; the track tells whose a box is."""
    return sum(d is not None and d.track != strip + 1 for picture in seen for strip, d in enumerate(picture.drawn))


def _order_faults(kind: Kind, played: Played, seen: Sequence[Seen]) -> Iterator[str]:
    if any(b.seconds <= a.seconds for a, b in itertools.pairwise(seen)):
        yield "output time does not rise"
    if any(b.index <= a.index for a, b in itertools.pairwise(seen)):
        yield "pictures are not in order"
    if len(seen) != played.shown:
        yield f"{played.shown} frames shown, {len(seen)} in the mixed video"
    late = sum(past > 1_000_000 for _, past in played.released)
    if late:
        yield f"{late} frames shown after their deadline"
    if len(seen) < len(played.pts_ns_of):
        yield f"{len(played.pts_ns_of)} frames accepted, {len(seen)} shown"
    first: dict[int, tuple[int, int]] = {}
    for index, (epoch, pts_ns) in sorted(played.pts_ns_of.items()):
        start = first.setdefault(epoch, (played.true_ns[index], pts_ns))
        drift = (pts_ns - start[1]) - (played.true_ns[index] - start[0])
        if abs(drift) > 600_000:
            yield f"picture {index} has a PTS {drift / 1e6:.1f} ms off its true time"
            return
    for a, b in itertools.pairwise(seen):
        if played.connection_of.get(a.index) == played.connection_of.get(b.index) and kind.epochs == 1:
            drift_s = float(b.seconds - a.seconds) - (played.true_ns[b.index] - played.true_ns[a.index]) / NS_PER_S
            if abs(drift_s) > 0.0011:
                yield f"picture {b.index} is shown {drift_s * 1e3:.1f} ms off in the mixed video"
                return


def _account_faults(kind: Kind, played: Played) -> Iterator[str]:
    if dict(played.drops) != dict(kind.drops):
        yield f"dropped at ingest {dict(played.drops)}, expected {dict(kind.drops)}"
    if played.epochs != kind.epochs:
        yield f"{played.epochs} epochs, expected {kind.epochs}"
    if played.versions - {kind.version}:
        yield f"results of versions {sorted(played.versions)} shown, expected {kind.version}"
    if kind.sees_wrap and not played.saw_wrap:
        yield "the reader saw no wrap, so this case proves nothing"
    for name, balance in played.balances.items():
        if not balance.holds or balance.in_flight:
            yield f"ledger of {name} does not balance: {balance}"
