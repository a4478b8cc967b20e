"""A file that is read more than once: by an order, by a restart after kill -9, with roles that begin anew between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_mixer_role import tables, turn
from test_roles_on_memory import NAMES, claim, ingested, records, settled, worked, write_frames

from serving.records import decode_result
from serving.roles.accountant import LogAccountant
from serving.roles.ledger import read_ledger
from serving.roles.mixer import LogMixer
from serving.roles.timelines import Timelines, is_whole
from serving.testing.hand_clock import HandClock
from serving.testing.memory_log import MemoryLog

PICTURE = np.zeros((48, 64, 3), np.uint8)


@pytest.fixture
def log() -> MemoryLog:
    topics = ("frames", "results", "outcomes", "timelines", "dead_letter", "streams")
    return MemoryLog({NAMES.topic(topic): 1 for topic in topics})


def analysed(log: MemoryLog, results: int) -> None:
    worked(log, lambda worker: len(records(log, "results", decode_result)) == results)


def killed_after(log: MemoryLog, frames: int) -> None:
    """An ingest that wrote so many and never said that the epoch is over."""
    claim(log)
    write_frames(log, range(frames))


def balances(log: MemoryLog) -> list[tuple[int, int, bool]]:
    return [(row.epoch, row.results, row.balanced) for row in read_ledger(log, NAMES)]


def test_an_accountant_that_begins_anew_closes_the_second_reading(
    log: MemoryLog, clock: HandClock, accountant: Callable[[], LogAccountant]
) -> None:
    ingested(log, PICTURE, 3)
    analysed(log, 3)
    first = accountant()
    settled(first, clock)
    assert first.is_finished("gate")
    log.expire(first._consumer)  # type: ignore[arg-type]
    second = accountant()
    ingested(log, PICTURE, 3)
    analysed(log, 6)
    settled(second, clock)
    assert second.is_finished("gate"), "the first epoch lies before its position"
    assert balances(log) == [(1, 3, True), (2, 3, True)]


@pytest.mark.parametrize("anew", [False, True], ids=["the same accountant", "another accountant"])
def test_f1_a_file_whose_reader_was_killed_is_closed_when_it_was_read_to_its_end(
    log: MemoryLog, clock: HandClock, accountant: Callable[[], LogAccountant], anew: bool
) -> None:
    killed_after(log, 2)
    analysed(log, 2)
    role = accountant()
    settled(role, clock, 90)
    assert not role.is_finished("gate"), "somebody may go on with it"
    if anew:
        log.expire(role._consumer)  # type: ignore[arg-type]
        role = accountant()
    ingested(log, PICTURE, 3)
    analysed(log, 5)
    settled(role, clock)
    assert role.is_finished("gate")
    assert balances(log) == [(1, 2, True), (2, 3, True)]


def test_f1_its_video_ends_and_nobody_reads_it_once_more(
    log: MemoryLog, mixer: Callable[[], LogMixer], tmp_path: Path
) -> None:
    killed_after(log, 2)
    analysed(log, 2)
    role = mixer()
    turn(role, lambda: (mix := role.role("gate")) is not None and mix.counters.frames == 2)
    assert role.outputs("gate") is None
    ingested(log, PICTURE, 3)
    analysed(log, 5)
    turn(role, lambda: role.outputs("gate") is not None)
    assert tables(tmp_path / "gate") == [0, 1, 0, 1, 2]
    timelines = Timelines(log, NAMES)
    timelines.catch_up()
    assert timelines.ended("gate") == {1: None, 2: 3}, "what a supervisor asks when it starts"


def test_whole_is_what_was_read_to_the_end_of_the_newest_epoch() -> None:
    assert not is_whole({}, {1: 3}) and not is_whole({1: 2}, {1: 3}) and is_whole({1: 3}, {1: 3})
    assert not is_whole({1: 3}, {1: 3, 2: 5}), "the second is to come"
    assert is_whole({2: 5}, {1: 3, 2: 5}), "the first was before us"
    assert is_whole({1: 1, 2: 5}, {1: None, 2: 5}), "nobody counted the first"
    assert not is_whole({1: 1, 2: 5}, {1: 3, 2: 5}), "of the first some are missing"
