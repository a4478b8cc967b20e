"""Scores of sound events: event-based F-score with a collar (Mesaros, Heittola, Virtanen 2016), by class and over all.

The matching is the task's own (`serving.tasks.events.match_events`), so the certificate's `expect: event_f1` and this
score agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serving.tasks.events import Event, EventCounts, match_events


@dataclass(frozen=True, slots=True)
class EventScores:
    """Shares in 0..1 and counts. f1 is 1 where there was nothing to find and nothing was found."""

    f1: float
    precision: float
    recall: float
    matched: int
    false_alarms: int
    misses: int


Pairs = Sequence[tuple[Sequence[Event], Sequence[Event]]]


def score_events(pairs: Pairs, collar_s: float = 0.2, share: float = 0.5) -> EventScores:
    """Over files, each (truth, found): events are (begin_s, end_s, class)."""
    counts = [match_events(truth, found, collar_s, share) for truth, found in pairs]
    return _scores(sum(counts, EventCounts(0, 0, 0)))


def score_by_class(pairs: Pairs, collar_s: float = 0.2, share: float = 0.5) -> Mapping[int, EventScores]:
    """The same for each class that is in the truth or was found."""
    classes = sorted({event[2] for truth, found in pairs for event in (*truth, *found)})
    return {
        kind: score_events([([e for e in a if e[2] == kind], [e for e in b if e[2] == kind]) for a, b in pairs],
                           collar_s, share)
        for kind in classes
    }  # fmt: skip


def _scores(counts: EventCounts) -> EventScores:
    return EventScores(
        counts.f1,
        counts.matched / counts.estimated if counts.estimated else 1.0,
        counts.matched / counts.reference if counts.reference else 1.0,
        counts.matched,
        counts.estimated - counts.matched,
        counts.reference - counts.matched,
    )
