"""Events of tracks as JSON Lines: a fold over the results of a source, as its worker gives them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from serving.frames import Posting
from serving.streams.outputs import TextSink
from serving.tracking.events import EventRules, TrackEvent, TrackEvents
from serving.types import Detections


class EventLines:
    """labels: by pipeline. A new epoch ends every track of the one before."""

    def __init__(self, source_id: str, rules: EventRules, labels: Mapping[str, Sequence[str]], file: TextSink) -> None:
        self._source_id, self._rules, self._labels, self._file = source_id, rules, labels, file
        self._folds: dict[str, tuple[int, int, TrackEvents]] = {}  # by pipeline: epoch, last PTS, fold

    def take(self, posting: Posting) -> None:
        """In (epoch, frame_seq) order for each pipeline; what has no tracked boxes passes. Raises StorageFailed."""
        found = posting.outcome.result.result if posting.outcome.result is not None else None
        if posting.pts_ns is None or not isinstance(found, Detections) or found.tracker_id is None:
            return
        name, epoch = posting.key.pipeline, posting.key.epoch
        before, last_ns, fold = self._folds.get(name, (epoch, 0, TrackEvents(self._rules)))
        if before != epoch:
            self._write(name, before, fold.finish(last_ns))
            fold = TrackEvents(self._rules)
        self._write(name, epoch, fold.update(found, posting.pts_ns))
        self._folds[name] = epoch, posting.pts_ns, fold

    def close(self) -> None:
        """The streams are over: tracks that were told leave."""
        for name, (epoch, last_ns, fold) in self._folds.items():
            self._write(name, epoch, fold.finish(last_ns))
        self._folds.clear()

    def _write(self, pipeline: str, epoch: int, events: Sequence[TrackEvent]) -> None:
        for event in events:
            line = {"source_id": self._source_id, "epoch": epoch, "pipeline": pipeline}
            line |= event.to_document(self._labels.get(pipeline, ()))
            self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
