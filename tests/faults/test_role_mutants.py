"""Defects that must be found: workers with one of them run on the same broker, and the check that is named finds it."""

from __future__ import annotations

import time

import pytest
from fault_rig import Rig
from test_f11_poison import poison

from serving.testing.mutants.roles import ROLE_MUTANTS

pytestmark = pytest.mark.needs("kafka")
MANY = 5  # ends of a process for one picture; with the counter on the log there are three


@pytest.mark.parametrize("name", [name for name, mutant in ROLE_MUTANTS.items() if mutant.caught_by == "history (d)"])
def test_positions_that_run_ahead_are_seen(rig: Rig, name: str) -> None:
    """Nothing fails in this run, and still the history tells."""
    with rig.mutated(name), rig.row("mutant", sources=1) as row:
        time.sleep(4)
    assert any("was committed before" in fault for fault in row.faults()), row.faults()


def test_a_counter_of_attempts_in_memory_is_seen(rig: Rig) -> None:
    """F11 without an end: every worker begins to count at one."""
    with rig.mutated("attempts_in_memory"), rig.row("mutant", sources=1) as row:
        time.sleep(1)
        ends = _ends(rig)
        poison(row, 0, "exit")
        row.until(lambda: _ends(rig) - ends >= MANY or bool(_letters(rig, row.sources[0])), "it ends processes", 90)
        found = _letters(rig, row.sources[0])
        rig.calm()
        assert not found, "it was buried, so F11 would not have found the defect"


def _ends(rig: Rig) -> int:
    return sum(len(rig.crew.members[name].exits) for name in rig.workers)


def _letters(rig: Rig, source: str) -> list[str]:
    return [key for key, _, _ in rig.history.letters if key == source]
