"""Scores window by window -> events with a beginning and an end, as a stream: what is open goes on in the next piece.

An event begins where the score reaches `on`, and is over when it has been below `off` for `min_silence_ns` (it then
ends where that silence began). Events shorter than `min_duration_ns` are not told. The rule with two thresholds is the
field's usual one for voice activity (hysteresis, hangover).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from serving.spec import SoundSpec
from serving.tracking.table import assign
from serving.types import AudioEvents, FloatArray

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class EventRules:
    """Scores in 0..1, times in nanoseconds. classes: which columns are events (a background class is none)."""

    on: float
    off: float
    min_duration_ns: int
    min_silence_ns: int
    pad_ns: int
    classes: tuple[int, ...]


@dataclass(slots=True)
class _Running:
    """An event that is not over. quiet: where silence began, or None."""

    start: int
    peak: float
    quiet: int | None = None
    number: int = 0
    floor: int = 0  # nothing was heard before


@dataclass(slots=True)
class _Over:
    """An event's last word: where it was told to end."""

    running: _Running
    kind: int
    end: int


def window_ns(rule: SoundSpec, place: int) -> tuple[int, int]:
    """What window `place` decides: a step around its centre, in ns since the first sample."""
    first = 2 * place * rule.step + rule.window - rule.step
    return tuple(NS_PER_S * half // (2 * rule.sample_rate) for half in (first, first + 2 * rule.step))  # type: ignore[return-value]


@dataclass(slots=True)
class EventMaker:
    """The events of one timeline. `offset_ns`: where its first window begins. told: the number of its last event."""

    rule: SoundSpec
    rules: EventRules
    offset_ns: int = 0
    windows: int = 0
    told: int = 0
    _running: dict[int, _Running] = field(default_factory=dict)
    _over: list[_Over] = field(default_factory=list)

    def feed(self, scores: FloatArray, last: bool = False, length_ns: int | None = None) -> AudioEvents:
        """The events that these windows [t, classes] belong to, ended or open.

        last: nothing follows; what is open ends here. length_ns: where the sound ends, if before its last window does.
        """
        begin = self._edge(self.windows)[0]
        for row in np.asarray(scores, np.float64):
            start, end = self._edge(self.windows)
            self.windows += 1
            for kind in self.rules.classes:
                self._hear(kind, float(row[kind]), start, end)
        heard_to = self._heard_to()
        if length_ns is not None:
            heard_to = max(begin, min(heard_to, self.offset_ns + length_ns))
        if last:
            self._end_all(heard_to)
        return self._told_now(begin, heard_to, scores)

    def gap(self, offset_ns: int) -> None:
        """What comes next begins at `offset_ns` and has nothing to do with what was heard: open events ended there."""
        self._end_all(self._heard_to())
        self.offset_ns, self.windows = offset_ns, 0

    def _heard_to(self) -> int:
        return self._edge(self.windows - 1)[1] if self.windows else self._edge(0)[0]

    def _end_all(self, heard_to: int) -> None:
        for kind, running in sorted(self._running.items()):
            self._end(kind, running, min(heard_to, running.quiet or heard_to), heard_to)
        self._running.clear()

    def _edge(self, place: int) -> tuple[int, int]:
        start, end = window_ns(self.rule, place)
        return self.offset_ns + start, self.offset_ns + end

    def _hear(self, kind: int, score: float, start: int, end: int) -> None:
        running = self._running.get(kind)
        if running is None:
            if score >= self.rules.on:
                self._running[kind] = _Running(start, score, floor=self.offset_ns)
            return
        if score >= self.rules.on:
            running.quiet, running.peak = None, max(running.peak, score)
        elif score < self.rules.off or running.quiet is not None:
            running.quiet = start if running.quiet is None else running.quiet
            if end - running.quiet >= self.rules.min_silence_ns:
                self._end(kind, running, running.quiet, end)
                del self._running[kind]

    def _end(self, kind: int, running: _Running, end: int, heard_to: int) -> None:
        if running.number or end - running.start >= self.rules.min_duration_ns:
            self._over.append(_Over(running, kind, min(heard_to, end + self.rules.pad_ns)))

    def _told_now(self, begin: int, heard_to: int, scores: FloatArray) -> AudioEvents:
        still = [
            _Over(running, kind, min(heard_to, (running.quiet or heard_to) + self.rules.pad_ns))
            for kind, running in sorted(self._running.items())
            if running.number or (running.quiet or heard_to) - running.start >= self.rules.min_duration_ns
        ]
        rows = [*((row, False) for row in self._over), *((row, True) for row in still)]
        rows.sort(key=lambda row: row[0].running.start)
        self._over = []
        for row, _ in rows:
            if not row.running.number:
                self.told += 1
                row.running.number = self.told
        starts = [max(row.running.floor, row.running.start - self.rules.pad_ns) for row, _ in rows]
        return AudioEvents(
            np.array([row.running.number for row, _ in rows], np.int64),
            np.array(starts, np.int64),
            np.array([max(start, row.end) for start, (row, _) in zip(starts, rows, strict=True)], np.int64),
            np.array([row.kind for row, _ in rows], np.int64),
            np.array([row.running.peak for row, _ in rows], np.float32),
            np.array([is_open for _, is_open in rows], np.bool_),
            (begin, heard_to),
            np.asarray(scores, np.float32),
        )


@dataclass(frozen=True, slots=True)
class EventCounts:
    """Events of a reference and of an estimate, and how many were matched one to one."""

    reference: int
    estimated: int
    matched: int

    @property
    def f1(self) -> float:
        """Event-based F-score; 1 where there is nothing to find and nothing was found."""
        total = self.reference + self.estimated
        return 2 * self.matched / total if total else 1.0

    def __add__(self, other: EventCounts) -> EventCounts:
        return EventCounts(
            self.reference + other.reference, self.estimated + other.estimated, self.matched + other.matched
        )


Event = tuple[float, float, int]  # begin and end in seconds, class


def match_events(
    reference: Sequence[Event], estimated: Sequence[Event], collar_s: float = 0.2, share: float = 0.5
) -> EventCounts:
    """One-to-one matches: the same class, the beginning within the collar, the end within the collar or `share` of the
    reference's length, whichever is more (Mesaros, Heittola, Virtanen 2016, event-based metrics with a collar)."""
    fits = np.zeros((len(reference), len(estimated)))
    for i, (start, end, kind) in enumerate(reference):
        for j, (begin, stop, other) in enumerate(estimated):
            near = abs(start - begin) <= collar_s and abs(end - stop) <= max(collar_s, share * (end - start))
            fits[i, j] = near and kind == other
    return EventCounts(len(reference), len(estimated), len(assign(fits, 1)[0]))
