"""Scores of sounds, event by event (evaluation/metrics/events.py).

Truth: `labels.csv` beside WAV or FLAC files; a label is `begin-end:class` in seconds, several joined by `;`, none
empty. Where a model has one class it may be left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.family import Item, Parameters
from evaluation.labelled import read_labelled
from evaluation.metrics.events import score_by_class, score_events
from serving.tasks.audio import events_of, truth_of
from serving.types import AudioEvents, TaskResult


class AudioFamily:
    """served: as the model answers users."""

    asks: Mapping[str, Parameters] = {"served": {}}

    def read(self, folder: Path, labels: Sequence[str]) -> list[Item]:
        """truth: events (begin_s, end_s, class_id)."""
        return [Item(path.name, path, truth_of(text, labels, str(path))) for path, text in read_labelled(folder)]

    def score(
        self, answers: Mapping[str, Sequence[TaskResult]], items: Sequence[Item], labels: Sequence[str]
    ) -> dict[str, Any]:
        """event_f1, precision, recall, matched, false_alarms, misses; and f1 by class."""
        found = [events_of(r) for r in answers["served"] if isinstance(r, AudioEvents)]
        pairs = list(zip([item.truth for item in items], found, strict=True))
        scores = asdict(score_events(pairs))
        by_class = {labels[kind]: one.f1 for kind, one in score_by_class(pairs).items()}
        return {"event_f1": scores.pop("f1"), **scores, "by_class": by_class}


FAMILY = AudioFamily()
