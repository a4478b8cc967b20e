"""G13 for every reason there is: at rest the accountant's counters are what `outcomes` says, read by another reader."""

from __future__ import annotations

from collections import Counter

from worker_support import INFO, NAMES, System

from serving.align import CloseRule
from serving.frames import DeadReason, DroppedRun, DropReason, LedgerKey, Outcome, Posting
from serving.records import FrameMessage, ResultMessage, encode_frame, encode_result
from serving.records.results import FrameTimes, ModelFacts
from serving.roles.accountant import LogAccountant
from serving.roles.ledger import read_ledger

ORDERED = tuple(DropReason)
AT_INGEST = ORDERED[: ORDERED.index(DropReason.NOT_SAMPLED) + 1]
LATER = [reason for reason in ORDERED if reason not in (*AT_INGEST, DropReason.DEADLINE)]
RUN = 3  # frames of each reason of ingest


def posting(seq: int, outcome: Outcome) -> ResultMessage:
    times = FrameTimes(seq * 3600, INFO.time_base)
    key = LedgerKey("gate", 1, seq, "person")
    return ResultMessage(Posting(key, seq * 40_000_000, outcome), ModelFacts("person", 1, "detection", ""), times)


def test_counters_equal_the_ledger_for_every_reason() -> None:
    system, seq = System(), 0
    system.claim("gate")
    for reason in AT_INGEST:
        run = DroppedRun("gate", 1, seq, seq + RUN - 1, reason, ("person",))
        system._write("frames", encode_frame(FrameMessage(run)))
        seq += RUN
    ends = [Outcome.dropped(reason) for reason in LATER] + [Outcome.dead_letter(reason) for reason in DeadReason]
    system.frames("gate", range(seq, seq + len(ends) + 1))  # of the last one nothing is heard: its deadline passes
    for number, end in enumerate(ends):
        for _ in range(2):  # work is done at least once and counted once
            system._write("results", encode_result(posting(seq + number, end)))
    accountant = LogAccountant(system.log, NAMES, CloseRule(), system.clock)
    for _ in range(90):
        system.clock.advance(1_000_000_000)
        accountant.step(0.0)

    (row,) = read_ledger(system.log, NAMES)
    assert row.balanced and row.accepted == seq + len(ends) + 1
    assert set(row.reasons) == {reason.value for reason in (*DropReason, *DeadReason)}, "no reason was left out"
    counted: Counter[str] = Counter()
    for family in accountant.monitor.metrics.registry.collect():
        for sample in family.samples:
            if sample.name == "lockstep_stream_outcomes_total" and sample.value:
                counted[sample.labels["reason"]] += int(sample.value)
    assert counted == row.reasons
    accepted = accountant.monitor.metrics.registry.get_sample_value(
        "lockstep_stream_accepted_total", {"source": "gate"}
    )
    assert accepted == row.accepted == sum(counted.values())
