"""Holes and runs of any length: the account balances, and memory grows with what was read, not with its numbers."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import serving.align.accountant as module
from serving.align import Accountant, CloseRule, OutcomeRecord, Posted
from serving.frames import DroppedRun, DropReason, Frame, LedgerKey, Outcome, Picture, Posting

S = 1_000_000_000
P = ("a", "b")
SMALL = 4  # stands for MAX_SINGLE
steps = st.lists(
    st.tuples(
        st.sampled_from(["frame", "run", "post", "tick"]),
        st.sampled_from([0, 0, 0, 1, SMALL, SMALL + 1, 10**12]),  # places left out before it
        st.sampled_from([1, 2, SMALL, SMALL + 1, 10**12]),  # places of a run
    ),
    max_size=40,
)


def frame(seq: int) -> Frame:
    return Frame("s", 1, seq, seq * 40, seq, Fraction(1, S), P, 0, Picture(encoded=b"x"), True)


def closed(seq: int, pipelines: tuple[str, ...] = P) -> list[OutcomeRecord]:
    outcome = Outcome.dropped(DropReason.STALE)
    return [OutcomeRecord(LedgerKey("s", 1, seq, pipeline), outcome, True) for pipeline in pipelines]


def post(accountant: Accountant, seq: int, pipeline: str = "a") -> list[OutcomeRecord]:
    return accountant.post(Posting(LedgerKey("s", 1, seq, pipeline), seq * 40, Outcome.dropped(DropReason.OVERLOAD)), 0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SINGLE", SMALL)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(steps)
def check_any_holes(script: list[tuple[str, int, int]]) -> None:
    accountant, out = Accountant(CloseRule()), []
    now, next_seq, read = 0, 0, 0
    reasons: Counter[str] = Counter()
    for what, hole, places in script:
        if what == "tick":
            now += 40 * S
            out += accountant.tick(now)
        elif what == "post" and next_seq:
            out += post(accountant, max(0, next_seq - 1 - hole))
        elif what == "frame":
            out += accountant.frame(frame(next_seq + hole), now)
            reasons["retention"] += hole
            next_seq, read = next_seq + hole + 1, read + 1
        elif what == "run":
            first = next_seq + hole
            out += accountant.frame(DroppedRun("s", 1, first, first + places - 1, DropReason.NO_PTS, P), now)
            reasons["retention"] += hole
            reasons["no_pts"] += places
            next_seq, read = first + places, read + 1
        total = accountant.total("s", "b")  # nobody posts to b, so its reasons are those of the log alone
        assert total.holds and total.accepted == next_seq
        open_places = len(accountant.ledger("s", 1)._entries) if next_seq else 0  # type: ignore[union-attr]
        assert open_places <= read * 2 * (SMALL + 1)
        found = dict(total.reasons)
        assert {r: found.get(r, 0) for r in ("retention", "no_pts")} == {r: reasons[r] for r in ("retention", "no_pts")}
    out += accountant.finish("s")
    done = [record.key for record in out if record.closed]
    assert len(done) == len(set(done)), "a key was closed twice"
    for pipeline in P:
        total = accountant.total("s", pipeline)
        assert total.holds and total.in_flight == 0 and total.accepted == next_seq
    assert len(done) + 2 * accountant.counters.run_places == 2 * next_seq


@pytest.mark.usefixtures("small")
def test_any_holes() -> None:
    check_any_holes()


def test_a_hole_of_a_million_million_places_costs_one_number() -> None:
    accountant = Accountant()
    accountant.frame(frame(0), 0)
    assert accountant.frame(frame(10**12), 0) == []
    ledger = accountant.ledger("s", 1)
    assert ledger is not None and ledger.next_seq == 10**12 + 1 and ledger.closed_below == 0
    assert ledger.is_terminal(5) and not ledger.is_terminal(0) and ledger.outcome(5, "a") is None
    assert post(accountant, 5) == [] and accountant.counters.posted[Posted.EXPIRED] == 1
    assert len(post(accountant, 10**12)) == 1, "the frame behind the hole is open"
    assert dict(accountant.total("s", "a").reasons) == {"retention": 10**12 - 1, "overload": 1}
    records = accountant.finish("s")
    assert sorted({record.key.frame_seq for record in records}) == [0, 10**12] and ledger.closed_below == 10**12 + 1


def test_a_restart_after_days_goes_on_where_what_was_closed_ends() -> None:
    """The log still has the outcomes of the last hours; what lies below was closed before."""
    accountant = Accountant()
    for seq in range(7_000_000, 7_000_010):
        for record in closed(seq):
            accountant.restore(record)
    out = accountant.frame(frame(7_000_005), 0) + accountant.frame(frame(7_000_010), 0)
    assert out == [], "nothing that was closed is written again"
    total = accountant.total("s", "a")
    assert (total.accepted, total.dropped, total.in_flight) == (11, 10, 1) and total.holds
    assert post(accountant, 6_999_999) == [] and accountant.counters.posted[Posted.EXPIRED] == 1


def test_hours_of_closed_keys_are_sums_and_no_memory() -> None:
    accountant = Accountant()
    for seq in range(5000):
        for record in closed(seq):
            accountant.restore(record)
    (kept,) = accountant._restored.values()
    assert len(kept.first) == len(kept.newest) == 2 and kept.later == {} and sum(map(len, kept.counts.values())) == 2
    assert accountant.frame(frame(4999), 0) == []
    total = accountant.total("s", "b")
    assert (total.accepted, total.dropped, total.in_flight) == (5000, 5000, 0) and total.holds


def test_retention_may_cut_between_two_pipelines_of_a_frame() -> None:
    accountant = Accountant()
    for record in [*closed(50, ("b",)), *closed(51), *closed(52)]:
        accountant.restore(record)
    out = accountant.frame(frame(53), 0)
    assert out == [] and accountant.total("s", "a").accepted == accountant.total("s", "b").accepted == 3
    assert accountant.total("s", "a").holds and accountant.total("s", "a").in_flight == 1


def test_a_crash_between_two_pipelines_of_the_first_frame() -> None:
    accountant = Accountant()
    accountant.restore(closed(0, ("a",))[0])
    accountant.frame(frame(0), 0)
    assert accountant.total("s", "a").in_flight == 0 and accountant.total("s", "b").in_flight == 1
    assert "b" in [record.key.pipeline for record in accountant.finish("s") if record.closed]
    assert accountant.total("s", "b").in_flight == 0 and accountant.total("s", "b").holds
