"""The whole system on a virtual clock: every frame accounted for, every box on its own frame, whatever fails.

Sixty seeds here; a thousand in tests/integration/test_simulator_thousand.py.
"""

from __future__ import annotations

import pytest

from serving.frames import DeadReason, DropReason
from serving.testing.mutants.system import SYSTEM_MUTANTS
from serving.testing.simulator import FAULTS, SimParts, System, check, run_seeds
from serving.testing.simulator.log import Committed, FakeLog, Group
from serving.testing.simulator.scheduler import MS, NS_PER_S, Process, Scheduler

LIKELY = {"no_epoch": 68, "one_pipeline": 1, "wall_clock": 27, "close_in_memory": 72, "attempts_in_memory": 25}


def test_sixty_seeds_balance() -> None:
    tally = run_seeds(range(60))
    print(tally.line())
    assert tally.wrong == {}
    assert tally.too_rare(5) == []
    assert tally.measured > 10_000, "a run that draws nothing proves nothing"
    assert set(tally.ends) <= {"result"} | {r.value for r in DropReason} | {r.value for r in DeadReason}


def test_the_calm_run_loses_nothing_and_draws_what_was_analysed() -> None:
    for seed in range(5):
        system = System(seed, SimParts(), faults=0)
        system.run()
        wrong, ends = check(system)
        assert wrong == [] and set(ends) <= {"result", "not_sampled"} and ends["result"]
        shown = [shown for mixer in system.mixers for shown in mixer.output]
        analysed = ends["result"] / len(system.pipelines)
        assert len(shown) >= 2 * 199 and sum(bool(s.measured) for s in shown) >= 0.95 * analysed


def test_the_same_seed_gives_the_same_run() -> None:
    assert run_seeds([3]).line() == run_seeds([3]).line() != run_seeds([4]).line()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_clock_jump_and_every_other_fault_can_strike(fault: str) -> None:
    struck = 0
    for seed in range(3):
        system = System(seed, SimParts(), faults=0)
        for at in (2, 4):
            system.scheduler.after(at * NS_PER_S, lambda s=system: s._strike(fault))
        system.run()
        assert check(system)[0] == []
        struck += system.struck[fault]
    assert struck > 0


def test_a_clock_jump_changes_nothing_at_all() -> None:
    outputs = []
    for jump in (0, 3600, -3600):
        system = System(11, SimParts(), faults=0)
        clock, by = system.scheduler, jump * NS_PER_S
        clock.after(4 * NS_PER_S, lambda c=clock, b=by: setattr(c, "wall_offset_ns", b))
        system.run()
        outputs.append([mixer.output for mixer in system.mixers])
    assert outputs[0] == outputs[1] == outputs[2] and outputs[0][0]


@pytest.mark.parametrize("mutant", SYSTEM_MUTANTS)
def test_the_simulator_catches(mutant: str) -> None:
    seeds = [LIKELY.get(mutant, 0), *range(200)]  # only the order: any seed will do
    found = next((seed for seed in seeds if run_seeds([seed], SYSTEM_MUTANTS[mutant]).wrong), None)
    assert found is not None, f"{mutant} survives 200 seeds"


class Member(Process):
    """Remembers what it was given."""

    def start(self) -> None:
        self.given: dict[int, int] = {}

    def assigned(self, partitions: list[int], generation: int) -> None:
        self.given |= dict.fromkeys(partitions, generation)

    def revoked(self, partition: int) -> None:
        del self.given[partition]


def test_a_commit_of_an_old_generation_is_refused() -> None:
    scheduler = Scheduler(1)
    group, one, two = Group(scheduler, 2), Member(scheduler), Member(scheduler)
    for name, member in (("one", one), ("two", two)):
        member.begin()
        group.join(name, member)
    scheduler.run(NS_PER_S)
    partition, generation = next(iter(one.given.items()))
    assert group.commit("one", generation, partition, Committed(3))
    one.stop(20 * NS_PER_S)
    group.silent("one")
    scheduler.run(10 * NS_PER_S)
    assert set(two.given) == {0, 1}
    assert not group.commit("one", generation, partition, Committed(9)) and group.committed[partition].offset == 3


def test_the_log_writes_nothing_while_away_and_passes_over_what_it_deleted() -> None:
    log = FakeLog(Scheduler(1))
    assert [log.append("t", 0, n) for n in range(4)] == [0, 1, 2, 3]
    log.set_up(False)
    assert log.append("t", 0, 9) is None and log.read("t", 0, 0) == (0, [])
    log.set_up(True)
    log.delete_before("t", 0, 2)
    assert log.read("t", 0, 0) == (2, [2, 3])
    log.disk_full = True
    assert log.append("t", 0, 9) is None and log.read("t", 0, 3) == (3, [3])


def test_a_stopped_process_does_its_work_when_it_goes_on_and_a_killed_one_never() -> None:
    scheduler, done = Scheduler(1), []
    one = Member(scheduler)
    one.begin()
    one.after(MS, lambda: done.append("first"))
    one.stop(NS_PER_S)
    scheduler.run(NS_PER_S // 2)
    assert done == []
    scheduler.run(2 * NS_PER_S)
    assert done == ["first"]
    one.after(MS, lambda: done.append("second"))
    one.kill(0)
    scheduler.run(3 * NS_PER_S)
    assert done == ["first"] and one.alive
