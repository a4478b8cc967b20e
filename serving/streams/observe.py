"""What a run tells Prometheus. Counters by reason are counted where a key closes, so they equal the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from serving.align import OutcomeRecord
from serving.align.mixer import MixerCounters
from serving.frames import (
    AlignedFrame,
    DeadReason,
    DropReason,
    Frame,
    FrameRecord,
    FrameResult,
    Origin,
    Status,
)
from serving.metrics import Metrics
from serving.streams.summary import SourceSummary
from serving.tasks.rules import RuledDetections

NS_PER_S = 1_000_000_000
ENDS = (  # every way a ledger key can end: outcome and reason
    (Status.RESULT.name.lower(), "none"),
    *((Status.DROPPED.name.lower(), reason.value) for reason in DropReason),
    *((Status.DEAD_LETTER.name.lower(), reason.value) for reason in DeadReason),
)


def count_rules(metrics: Metrics, result: FrameResult | None) -> None:
    """Boxes that the rules of the model's YAML took away on one frame."""
    if result is not None and isinstance(result.result, RuledDetections):
        for rule, boxes in result.result.counted.items():
            metrics.inc("lockstep_rule_boxes_total", boxes, model=result.model, rule=rule)


@dataclass(slots=True)
class StreamMetrics:
    """One process's streams. Methods are called by the stage that knows; `totals` by the supervisor, now and then."""

    metrics: Metrics
    _seen: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    _begun: set[tuple[str, str]] = field(default_factory=set)

    def begin(self, source: str, pipelines: Sequence[str]) -> None:
        """Every end that a frame of this source can come to stands at 0 before the first one comes to it."""
        for pipeline in pipelines:
            if (source, pipeline) not in self._begun:
                self._begun.add((source, pipeline))
                for outcome, reason in ENDS:
                    self.metrics.prepare(
                        "lockstep_stream_outcomes_total",
                        source=source, pipeline=pipeline, outcome=outcome, reason=reason,
                    )  # fmt: skip

    def accepted(self, record: FrameRecord) -> None:
        """A record of `frames` was taken in."""
        self.begin(record.source_id, record.pipelines)
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
            missing = overlay.missing and shown.frame.analyse
            self.metrics.inc("lockstep_stream_missing_total", missing, source=source, pipeline=overlay.pipeline)
            for value in overlay.origin.tolist():
                self.metrics.inc("lockstep_stream_boxes_total", source=source, origin=Origin(value).name.lower())

    def held(self, source_id: str, pictures: int) -> None:
        """Pictures held by the mixer now."""
        self.metrics.set("lockstep_stream_pictures_held", pictures, source=source_id)

    def totals(self, sources: Sequence[SourceSummary]) -> None:
        """Sums that other parts keep; what was added since the last call is counted."""
        for source in sources:
            name = source.source_id
            self.read(name, source.epochs, source.connections, source.errors or {})
            self._raise("lockstep_stream_unshown_total", source.unshown, source=name)

    def read(self, source: str, epochs: int, connections: int, errors: Mapping[str, int], life: int = 0) -> None:
        """Sums of who reads a source. errors: by code. life: of the process that says it; its sums begin anew."""
        self._raise("lockstep_stream_epochs_total", epochs, source=source)
        self._raise("lockstep_stream_connections_total", connections, life, source=source)
        for code, count in errors.items():
            self._raise("lockstep_stream_source_errors_total", count, life, source=source, code=code)

    def joined(self, source: str, counters: MixerCounters, undecodable: int) -> None:
        """What the mixer of a source has counted so far; undecodable: frames that the log carries no picture of."""
        self._raise("lockstep_stream_late_total", counters.late, source=source)
        self._raise("lockstep_stream_mismatched_total", counters.mismatched, source=source)
        self._raise("lockstep_mixer_skipped_total", counters.skipped, source=source)
        self._raise("lockstep_mixer_undecodable_total", undecodable, source=source)

    def _raise(self, name: str, total: int, life: int = 0, **labels: str) -> None:
        """Count what came to a sum that is kept elsewhere; the first time, at 0 too, so that the series is there."""
        key = name, "|".join(labels.values())
        lived, known = self._seen.get(key, (life, 0))
        known = known if lived == life else 0
        self._seen[key] = life, max(total, known)
        self.metrics.inc(name, max(total - known, 0), **labels)


class MixedMetrics(StreamMetrics):
    """A mixer's share where stages are processes: what was shown. The ledger is counted by the accountant."""

    def accepted(self, record: FrameRecord) -> None:
        """Not counted here."""

    def outcomes(self, records: Sequence[OutcomeRecord]) -> None:
        """Not counted here."""
