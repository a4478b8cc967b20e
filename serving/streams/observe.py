"""What a run tells Prometheus. Counters by reason are counted where a key closes, so they equal the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from serving.align import OutcomeRecord
from serving.frames import AlignedFrame, Frame, FrameRecord, FrameResult, Origin
from serving.metrics import Metrics
from serving.streams.summary import SourceSummary
from serving.tasks.rules import RuledDetections

NS_PER_S = 1_000_000_000


def count_rules(metrics: Metrics, result: FrameResult | None) -> None:
    """Boxes that the rules of the model's YAML took away on one frame."""
    if result is not None and isinstance(result.result, RuledDetections):
        for rule, boxes in result.result.counted.items():
            metrics.inc("lockstep_rule_boxes_total", boxes, model=result.model, rule=rule)


@dataclass(slots=True)
class StreamMetrics:
    """One process's streams. Methods are called by the stage that knows; `totals` by the supervisor, now and then."""

    metrics: Metrics
    _seen: dict[tuple[str, str], int] = field(default_factory=dict)

    def accepted(self, record: FrameRecord) -> None:
        """A record of `frames` was taken in."""
        count = 1 if isinstance(record, Frame) else record.last_seq - record.first_seq + 1
        self.metrics.inc("lockstep_stream_accepted_total", count, source=record.source_id)

    def outcomes(self, records: Sequence[OutcomeRecord]) -> None:
        """Records of `outcomes`; those that close a key are counted."""
        for record in records:
            if record.closed:
                outcome = record.outcome
                self.metrics.inc(
                    "lockstep_stream_outcomes_total",
                    source=record.key.source_id,
                    pipeline=record.key.pipeline,
                    outcome=outcome.status.name.lower(),
                    reason=outcome.reason or "none",
                )
                count_rules(self.metrics, outcome.result)

    def shown(self, shown: AlignedFrame) -> None:
        """A frame was shown."""
        source = shown.frame.source_id
        self.metrics.inc("lockstep_stream_shown_total", source=source)
        seconds = (shown.released_mono_ns - shown.frame.arrival_mono_ns) / NS_PER_S
        self.metrics.observe("lockstep_stream_latency_seconds", seconds, source=source)
        for overlay in shown.overlays:
            if overlay.missing and shown.frame.analyse:
                self.metrics.inc("lockstep_stream_missing_total", source=source, pipeline=overlay.pipeline)
            for value in overlay.origin.tolist():
                self.metrics.inc("lockstep_stream_boxes_total", source=source, origin=Origin(value).name.lower())

    def held(self, source_id: str, pictures: int) -> None:
        """Pictures held by the mixer now."""
        self.metrics.set("lockstep_stream_pictures_held", pictures, source=source_id)

    def totals(self, sources: Sequence[SourceSummary]) -> None:
        """Sums that other parts keep; what was added since the last call is counted."""
        for source in sources:
            name = source.source_id
            self._raise("lockstep_stream_epochs_total", source.epochs, source=name)
            self._raise("lockstep_stream_connections_total", source.connections, source=name)
            self._raise("lockstep_stream_late_total", source.late, source=name)
            self._raise("lockstep_stream_mismatched_total", source.mismatched, source=name)
            self._raise("lockstep_stream_unshown_total", source.unshown, source=name)
            for code, count in (source.errors or {}).items():
                self._raise("lockstep_stream_source_errors_total", count, source=name, code=code)

    def _raise(self, name: str, total: int, **labels: str) -> None:
        key = name, "|".join(labels.values())
        added = total - self._seen.get(key, 0)
        if added > 0:
            self._seen[key] = total
            self.metrics.inc(name, added, **labels)
