"""The index writer: what is recorded and nothing else, and after any loss the same again from the log (F4)."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest
from index_support import FRAME_NS, NAMES, World, dropped, rebuilt, result, turn

from serving.errors import LogUnavailable, Unavailable
from serving.frames import DropReason
from serving.metrics import Metrics
from serving.roles import index as index_module
from serving.roles.index import IndexWriter


@pytest.fixture
def world() -> World:
    return World()


def test_only_what_is_recorded_is_shown(world: World) -> None:
    writer = world.writer()
    turn(writer)
    world.both(result(0), dropped(1))
    world.candidate(result(2, "forged"))  # no ledger key knows it
    world.candidate(result(3, "loser"))
    world.both(result(3, "winner"))
    turn(writer)
    assert world.says() == {0: "a", 1: "drop", 3: "winner"}
    latest = world.index.latest("gate")
    assert latest.documents["m"]["frame_seq"] == 3 and latest.age_s == 0


def test_the_record_may_be_read_before_its_candidate(world: World) -> None:
    writer = world.writer()
    turn(writer)
    world.recorded(result(0))
    turn(writer)
    assert world.says() == {}
    world.candidate(result(0))
    turn(writer)
    assert world.says() == {0: "a"}


def test_a_raised_outcome_replaces_and_a_late_one_changes_nothing(world: World) -> None:
    writer = world.writer()
    turn(writer)
    world.both(dropped(0), dropped(1))
    turn(writer)
    world.both(result(0, "second try", attempt=2))
    world.recorded(dropped(1), closed=True)
    world.candidate(result(1, "zombie"))
    turn(writer)
    assert world.says() == {0: "second try", 1: "drop"}


def test_frames_without_pts_have_no_place(world: World) -> None:
    writer = world.writer()
    turn(writer)
    world.both(dropped(4, DropReason.NOT_SAMPLED))
    world.both(result(5))
    turn(writer)
    assert 5 in world.says()


def test_a_new_writer_goes_on_where_the_last_one_stood(world: World) -> None:
    first = world.writer()
    world.both(*(result(n) for n in range(10)))
    rebuilt(first)
    world.clock.advance(2_000_000_000)
    turn(first)
    assert first.counters["rebuilds"] == 1, "a new index is read back once"
    first.close()
    world.both(*(result(n) for n in range(10, 20)))
    second = world.writer()
    turn(second)
    assert second.counters["rebuilds"] == 0 and second.counters["written"] <= 11
    assert world.says() == dict.fromkeys(range(20), "a")


def test_f2_a_broker_that_is_away_at_a_takeover_does_not_cost_the_mark(world: World) -> None:
    first = world.writer()
    world.both(*(result(n) for n in range(3)))
    rebuilt(first)
    world.clock.advance(2_000_000_000)
    turn(first)
    second = world.writer()
    world.log.set_down(True)
    with pytest.raises(LogUnavailable):
        second.step(0)
    world.log.set_down(False)
    world.both(result(3))
    turn(second)
    assert second.counters["rebuilds"] == 0 and world.says() == dict.fromkeys(range(4), "a")


def test_a_writer_that_died_in_a_rebuild_leaves_no_hole(world: World) -> None:
    world.both(*(result(n) for n in range(3000)))
    first = world.writer()
    world.clock.advance(2_000_000_000)
    turn(first, 3)
    assert first.rebuilding() and 0 < len(world.says()) < 3000
    second = world.writer()
    rebuilt(second)
    assert world.says() == dict.fromkeys(range(3000), "a")


def test_f4_after_a_flush_all_comes_back_newest_first(world: World) -> None:
    writer = world.writer()
    turn(writer)
    for n in range(6000):
        world.candidate(result(n))
        if n % 50 == 7:
            world.candidate(result(n, "outvoted"))
        world.clock.advance(FRAME_NS)
        world.recorded(result(n))
        if n >= 1500:
            world.recorded(result(n - 1500), closed=True)
    world.candidate(result(1, "long closed"))
    while len(world.says()) < 6000:
        turn(writer)
    before = world.says()
    assert before == dict.fromkeys(range(6000), "a")
    world.index.flush()
    world.clock.advance(2_000_000_000)
    firsts: list[int] = []
    writer.step(0)
    assert writer.rebuilding()
    while writer.rebuilding():
        writer.step(0)
        if world.says():
            firsts.append(min(world.says()))
    assert firsts[0] > 4000 and firsts == sorted(firsts, reverse=True), "newest first"
    assert world.says() == before and writer.counters["rebuilds"] == 2
    assert world.index.latest("gate").documents["m"]["frame_seq"] == 5999
    assert world.index.latest("gate").age_s is None, "what was read back is not fresh"


def test_results_that_come_during_a_rebuild_are_not_overwritten(world: World) -> None:
    world.both(*(dropped(n) for n in range(4000)))
    writer = world.writer()
    turn(writer, 2)
    assert writer.rebuilding() and 5 not in world.says()
    world.both(result(5, "raised"), result(4000))
    rebuilt(writer)
    assert world.says()[5] == "raised" and world.says()[4000] == "a" and len(world.says()) == 4001


def test_a_failover_that_lost_the_last_second_is_noticed(world: World) -> None:
    writer = world.writer()
    world.both(*(result(n) for n in range(10)))
    rebuilt(writer)
    before = world.index.snapshot()
    world.both(*(result(n) for n in range(10, 15)))
    turn(writer)
    world.index.restore(before)
    assert set(world.says()) == set(range(10))
    world.both(result(15))
    rebuilt(writer)
    turn(writer)
    assert set(world.says()) == set(range(16))


def test_an_outage_loses_nothing_and_needs_no_rebuild_where_the_index_kept_what_it_had(world: World) -> None:
    writer = world.writer()
    world.both(result(0))
    rebuilt(writer)
    rebuilds = writer.counters["rebuilds"]
    world.index.set_down(True)
    for n in range(1, 2000):
        world.both(result(n))
    for _ in range(20):
        world.clock.advance(3_000_000_000)
        with pytest.raises(Unavailable):
            writer.step(0)
    world.index.set_down(False)
    turn(writer, 20)
    assert world.says() == dict.fromkeys(range(2000), "a") and writer.counters["rebuilds"] == rebuilds


def test_a_broker_that_is_away_during_a_rebuild_only_delays_it(world: World) -> None:
    world.both(*(result(n) for n in range(1500)))
    writer = world.writer()
    turn(writer, 2)
    world.index.flush()
    world.log.set_down(True)
    world.clock.advance(2_000_000_000)
    with pytest.raises(LogUnavailable):
        writer.step(0)
    world.log.set_down(False)
    world.clock.advance(2_000_000_000)
    rebuilt(writer)
    world.clock.advance(2_000_000_000)
    rebuilt(writer)
    assert world.says() == dict.fromkeys(range(1500), "a")


def test_partitions_come_and_go(world: World) -> None:
    writer = world.writer()
    turn(writer)
    writer.assigned([1])
    world.both(result(0))
    turn(writer)
    writer.revoked([0])
    turn(writer)
    world.both(result(1))
    turn(writer)
    assert world.says() == {0: "a"}
    writer.assigned([0])
    turn(writer)
    assert world.says() == {0: "a", 1: "a"}


def test_any_interleaving_and_any_flush_end_the_same(world: World) -> None:
    """Random candidates, raises, forgeries and losses: at the end the index says what `outcomes` says."""
    for seed in range(10):
        world = World()
        dice, writer, wanted = random.Random(seed), world.writer(), dict[int, str]()
        for n in range(120):
            for message in [dropped(n), result(n, "x"), result(n, "y", attempt=2)][: dice.randint(1, 3)]:
                world.candidate(message)
                if dice.random() < 0.7:
                    world.recorded(message)
                    wanted[n] = message.model.certificate_id
            match dice.randint(0, 9):
                case 0:
                    world.index.flush()
                case 1:
                    kept = world.index.snapshot()
                    turn(writer, 1)
                    world.index.restore(kept)
                case 2:
                    writer = world.writer()
                case 3 | 4 | 5:
                    turn(writer, dice.randint(1, 3))
                case _:
                    world.clock.advance(dice.randint(0, 2_000_000_000))
        for _ in range(3):
            world.clock.advance(2_000_000_000)
            rebuilt(writer)
            turn(writer)
        assert world.says() == wanted, seed


def test_an_unexpected_error_does_not_end_the_thread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.clock import SystemClock

    monkeypatch.setattr(index_module, "AGAIN_S", 0.02)
    metrics, broken = Metrics(), threading.Event()
    write = world.index.write

    def failing(*what: Any) -> None:
        if not broken.is_set():
            broken.set()
            raise TypeError("nobody expected it")
        write(*what)

    monkeypatch.setattr(world.index, "write", failing)
    told = list[float]()
    monkeypatch.setattr(metrics, "set", lambda name, value: told.append(value))
    writer = IndexWriter(world.index, world.log, NAMES, SystemClock(), metrics).start()
    writer.assigned([0])
    world.both(result(0))
    deadline = time.monotonic() + 10
    while world.says() != {0: "a"} or told[-1] != 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    writer.close()
    assert 0 in told and writer.counters["failed"] == 1


def test_a_mark_that_somebody_planted_is_none(world: World) -> None:
    for planted in ('{"at": [1e999, 0]}', "[" * 5000):
        world.index.exchange("index-0", planted)
        world.both(result(0))
        rebuilt(world.writer())
        assert world.says() == {0: "a"}


def test_as_a_thread_it_never_blocks_its_owner(world: World) -> None:
    from serving.clock import SystemClock
    from serving.testing.memory_index import MemoryIndex
    from serving.testing.memory_log import MemoryLog

    log, index = MemoryLog({"t.results": 2, "t.outcomes": 2}), MemoryIndex()
    index.set_down(True)
    writer = IndexWriter(index, log, NAMES, SystemClock()).start()
    writer.assigned([0, 1])
    writer.revoked([1])
    writer.close()
    assert not [t for t in __import__("threading").enumerate() if t.name == "index-writer"]
