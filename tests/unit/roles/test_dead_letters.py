"""Dead letters are listed, shown and replayed; a replay is tried like any other record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_roles_on_memory import JPEG, NAMES, PLACE, claim, records, worked, write_frames

from serving.errors import EngineFailed, NotFound, ParameterInvalid, RecordInvalid
from serving.frames import Status
from serving.ports_log import MAX_RECORD_BYTES, LogRecord, NewRecord
from serving.records import DeadLetter, decode_result, encode_dead_letter
from serving.roles.dead_letters import find_letters, read_letters, replay
from serving.roles.sender import Sender
from serving.testing.memory_log import MemoryLog

ERROR = RecordInvalid("frames.pts: expected an integer, got 'x'", field="pts")


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog({NAMES.topic(t): 1 for t in ("frames", "results", "outcomes", "timelines", "dead_letter")})


def results(log: MemoryLog) -> list[Any]:
    return records(log, "results", decode_result)


def bury(log: MemoryLog, record: LogRecord, reason: str = "schema") -> None:
    sender = Sender(log.producer())
    letter = encode_dead_letter(DeadLetter.of(record, reason, ERROR))
    sender.send(NAMES.topic("dead_letter"), letter, None)
    sender.close()


def test_a_frame_that_failed_is_replayed_and_its_result_comes(log: MemoryLog) -> None:
    claim(log)
    write_frames(log, [0])

    def broken(requests: Any) -> Any:
        raise EngineFailed("three times the same")

    worked(log, lambda worker: len(results(log)) == 1, broken)
    (letter,) = read_letters(log, NAMES, "retry_exhausted")
    row = letter.document()
    assert (row["id"], row["topic"], row["key"], row["whole"]) == ("0-0", PLACE.topic, "gate", True)
    assert letter.details()["headers"]["frame_seq"] == "0" and "three attempts" in row["error"]
    assert replay(log, NAMES, find_letters(log, NAMES, ["0-0"])) == 1
    worked(log, lambda worker: len(results(log)) == 2)
    outcomes = [message.posting.outcome.status for message in results(log)]
    assert outcomes == [Status.DEAD_LETTER, Status.RESULT]


def test_what_cannot_be_replayed_is_named_and_nothing_is_written(log: MemoryLog) -> None:
    whole = LogRecord(PLACE.topic, 0, 5, b"gate", JPEG, (("epoch", b"1"),))
    cut = replace(whole, value=bytes(MAX_RECORD_BYTES))
    foreign, elsewhere = replace(whole, topic="t.outcomes"), replace(whole, partition=7)
    for record in (whole, cut, foreign, elsewhere):
        bury(log, record)
    producer = log.producer()
    producer.append(NewRecord(NAMES.topic("dead_letter"), b"gate", b"", ()))
    producer.flush(5)
    letters = list(read_letters(log, NAMES))
    assert [letter.name for letter in letters] == ["0-0", "0-1", "0-2", "0-3", "0-4"]
    assert letters[4].letter is None and "reason" in letters[4].document()["error"]
    for number, what in ((1, "only 65536 of its"), (2, "got one of t.outcomes"), (3, "no partition 7"), (4, "is no")):
        with pytest.raises(ParameterInvalid, match=what):
            replay(log, NAMES, [letters[0], letters[number]])
    assert log.bounds([PLACE]) == {PLACE: (0, 0)}, "refused as a whole"
    with pytest.raises(NotFound, match="0-9"):
        find_letters(log, NAMES, ["0-0", "0-9"])
