"""A mixer's folder may be older than the log, or of another one: what is in it counts by the claims of its epochs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_mixer_role import committed, tables, turn
from test_roles_on_memory import NAMES, claim, ingested, records, worked, write_frames

from serving.frames import SourceKind
from serving.ports_log import Committed
from serving.preprocess.jpeg import JpegCodec
from serving.records import StreamMessage, decode_result
from serving.roles.ingest import IngestSettings, LogIngest
from serving.roles.mixer import LogMixer
from serving.testing.hand_clock import HandClock
from serving.testing.list_source import Connection, ListSource
from serving.testing.memory_log import MemoryLog

PICTURE = np.zeros((48, 64, 3), np.uint8)


def memory() -> MemoryLog:
    topics = ("frames", "results", "outcomes", "timelines", "dead_letter", "streams")
    return MemoryLog({NAMES.topic(topic): 1 for topic in topics})


@pytest.fixture
def log() -> MemoryLog:
    return memory()


def read_by(log: MemoryLog, ingest_id: str, frames: int) -> None:
    """A file, to its end; and analysed."""
    source = ListSource("gate", [Connection([(3600 * n, PICTURE) for n in range(frames)])], SourceKind.FILE)
    stream = StreamMessage("gate", "file:list", ("person",), mixed=True)
    settings = IngestSettings(JpegCodec())
    LogIngest(log, NAMES, source, stream, ingest_id, settings, HandClock(), lambda seconds: False).run()
    read = len(records(log, "frames", lambda *record: record))
    worked(log, lambda worker: len(records(log, "results", decode_result)) == read)


@pytest.mark.parametrize("readings", [1, 2], ids=["the same epoch", "a higher epoch"])
def test_a_log_that_was_begun_anew_is_shown_from_its_first_frame(
    log: MemoryLog, clock: HandClock, mixer: Callable[..., LogMixer], tmp_path: Path, readings: int
) -> None:
    before, folder = memory(), tmp_path / "gate"
    for n in range(readings):
        read_by(before, f"ingest-{n}", 3)
    first = mixer(before)
    turn(first, lambda: first.outputs("gate") is not None)
    assert tables(folder) == [0, 1, 2] * readings
    read_by(log, "another", 5)
    second = mixer()
    turn(second, lambda: second.outputs("gate") is not None)
    assert tables(folder) == [0, 1, 2] * readings + [0, 1, 2, 3, 4], "numbers of segments go on"
    clock.advance(2_000_000_000)
    second.step(0.0)
    assert committed(log) == Committed(5)


def test_a_frame_of_a_fenced_reader_does_not_hold_the_position(
    log: MemoryLog, clock: HandClock, mixer: Callable[..., LogMixer]
) -> None:
    claim(log)
    ingested(log, PICTURE, 3)
    worked(log, lambda worker: len(records(log, "results", decode_result)) == 3)
    role = mixer()
    turn(role, lambda: role.outputs("gate") is not None)
    write_frames(log, [0])
    mix = role.role("gate")
    turn(role, lambda: mix is not None and mix.mixer.counters.fenced == 1)
    clock.advance(2_000_000_000)
    role.step(0.0)
    assert committed(log) == Committed(4)
