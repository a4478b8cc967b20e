"""What a run and a mixer count: every end of a frame, at 0 until it comes, and equal to what the ledger says."""

from __future__ import annotations

from serving.align import OutcomeRecord
from serving.align.mixer import MixerCounters
from serving.frames import DeadReason, DroppedRun, DropReason, LedgerKey, Outcome
from serving.metrics import Metrics
from serving.streams.observe import ENDS, MixedMetrics, StreamMetrics

DROPPED = DroppedRun("gate", 1, 0, 2, DropReason.PREROLL, ("person",))


def outcomes(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Values by outcome and reason."""
    samples = [s for family in metrics.registry.collect() for s in family.samples]
    return {
        (s.labels["outcome"], s.labels["reason"]): s.value
        for s in samples
        if s.name == "lockstep_stream_outcomes_total"
    }


def value(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"source": "gate"})


def test_every_end_stands_at_0_until_it_comes_and_then_counts_once() -> None:
    counted = StreamMetrics(Metrics())
    counted.accepted(DROPPED)
    assert outcomes(counted.metrics) == dict.fromkeys(ENDS, 0) and len(ENDS) == 1 + len(DropReason) + len(DeadReason)
    ends = [Outcome.dropped(reason) for reason in DropReason] + [Outcome.dead_letter(reason) for reason in DeadReason]
    for seq, end in enumerate(ends):
        key = LedgerKey("gate", 1, seq, "person")
        counted.outcomes([OutcomeRecord(key, end, closed=True), OutcomeRecord(key, end, closed=False)])
    assert outcomes(counted.metrics) == {**dict.fromkeys(ENDS, 1), ("result", "none"): 0}


def test_sums_of_a_mixer_are_counted_once_and_its_ledger_is_not() -> None:
    counted, counters = MixedMetrics(Metrics()), MixerCounters()
    counted.accepted(DROPPED)
    counted.joined("gate", counters, 0)
    assert value(counted.metrics, "lockstep_stream_mismatched_total") == 0, "an alert has something to judge"
    counters.mismatched, counters.late = 2, 3
    for _ in range(2):
        counted.joined("gate", counters, 0)
    assert value(counted.metrics, "lockstep_stream_mismatched_total") == 2
    assert value(counted.metrics, "lockstep_stream_late_total") == 3
    assert not outcomes(counted.metrics) and value(counted.metrics, "lockstep_stream_accepted_total") is None


def test_a_process_that_begins_anew_counts_from_0_and_an_epoch_is_told_once() -> None:
    counted = StreamMetrics(Metrics())
    for life, epoch, connections in ((7, 1, 1), (7, 1, 2), (8, 0, 1), (8, 2, 1)):
        counted.read("gate", epoch, connections, {}, life)
    assert value(counted.metrics, "lockstep_stream_connections_total") == 3
    assert value(counted.metrics, "lockstep_stream_epochs_total") == 2
