"""Dead letters as an operator sees them: what was given up and why, the record as it was, and writing it once more.

A letter is named PARTITION-OFFSET of its own record on `dead_letter`. A replay appends the original bytes and headers
to the topic and partition number they came from: a frame is then tried again from its first attempt, and a result that
comes of it outranks the dead letter while the key is open. What is closed stays as it was recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from serving.errors import NotFound, ParameterInvalid, RecordInvalid
from serving.ports_log import RecordLog, TopicPartition
from serving.records import DeadLetter, Encoded, decode_dead_letter
from serving.roles.following import standing
from serving.roles.names import Names
from serving.roles.sender import Sender

REPLAYED = ("frames", "results")  # topics whose records may be written again; nothing of ours lies beside them
FLUSH_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class FoundLetter:
    """A letter and its name. letter None: a record of `dead_letter` that is none; problem says why."""

    name: str
    letter: DeadLetter | None
    problem: str = ""

    def document(self) -> dict[str, Any]:
        """One row of the list."""
        if self.letter is None:
            return {"id": self.name, "reason": "", "topic": "", "key": "", "partition": None, "offset": None,
                    "bytes": None, "whole": False, "error_code": "record_invalid", "error": self.problem}  # fmt: skip
        letter, record = self.letter, self.letter.record
        return {
            "id": self.name, "reason": letter.reason, "topic": record.topic, "key": _shown(record.key),
            "partition": record.partition, "offset": record.offset, "bytes": letter.size, "whole": letter.whole,
            "error_code": letter.error_code, "error": letter.error,
        }  # fmt: skip

    def details(self) -> dict[str, Any]:
        """The list's row, the original's headers and the hash of its whole value."""
        if self.letter is None:
            return self.document()
        headers = {name: _shown(value) for name, value in self.letter.record.headers}
        return {**self.document(), "sha256": self.letter.sha256, "headers": headers}


def read_letters(log: RecordLog, names: Names, reason: str = "") -> Iterator[FoundLetter]:
    """Every letter that stands on the log now, oldest first; of one reason only, where that is given."""
    topic = names.topic("dead_letter")
    places = [TopicPartition(topic, n) for n in range(log.partitions(topic))]
    for record in chain.from_iterable(standing(log, places, most=500)):  # each may hold a whole frame
        name = f"{record.partition}-{record.offset}"
        try:
            found = FoundLetter(name, decode_dead_letter(record.key, record.value, record.headers))
        except RecordInvalid as error:
            found = FoundLetter(name, None, str(error))
        if not reason or (found.letter is not None and found.letter.reason == reason):
            yield found


def find_letters(log: RecordLog, names: Names, wanted: Sequence[str]) -> list[FoundLetter]:
    """These, in their order. Raises NotFound with those that are not there (their time may be over)."""
    found = {letter.name: letter for letter in read_letters(log, names)}
    missing = [name for name in wanted if name not in found]
    if missing:
        raise NotFound(f"dead letters {', '.join(missing)}: no such record", hint="lockstep dead-letters list")
    return [found[name] for name in wanted]


def replay(log: RecordLog, names: Names, letters: Sequence[FoundLetter]) -> int:
    """Write the originals once more; how many were acknowledged. Raises ParameterInvalid before anything is written."""
    originals = [(_original(names, found), found) for found in letters]
    for (place, _), found in originals:
        if place.partition >= log.partitions(place.topic):
            raise ParameterInvalid(f"{found.name}: {place.topic} has no partition {place.partition}")
    sender = Sender(log.producer())
    try:
        for (place, record), _ in originals:
            sender.send(place.topic, record, place.partition)
        return len(originals) if sender.flush(FLUSH_SECONDS) else 0
    finally:
        sender.close()


def _original(names: Names, found: FoundLetter) -> tuple[TopicPartition, Encoded]:
    letter = found.letter
    if letter is None:
        raise ParameterInvalid(f"{found.name}: is no dead letter ({found.problem})")
    record = letter.record
    if record.topic not in [names.topic(topic) for topic in REPLAYED]:
        raise ParameterInvalid(f"{found.name}: expected a record of {' or '.join(REPLAYED)}, got one of {record.topic}")
    if not letter.whole:
        kept = len(record.value or b"")
        raise ParameterInvalid(
            f"{found.name}: only {kept} of its {letter.size} bytes were kept, so it cannot be replayed"
        )
    return record.place, Encoded(record.key or b"", record.value, record.headers)


def _shown(data: bytes | None) -> str:
    return "" if data is None else data.decode("utf-8", "backslashreplace")[:200]
