"""Reading what stands on a topic now, and letting partitions wait on the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet

from serving.errors import LogUnavailable
from serving.ports_log import LogReader, LogRecord, RecordLog, TopicPartition


def read_to_end(
    log: RecordLog, reader: LogReader, places: Sequence[TopicPartition], timeout_s: float,
    apply: Callable[[LogRecord], object],
) -> None:  # fmt: skip
    """Apply what `reader` gives until each place is read to where it ends now. Raises LogUnavailable."""
    deadline = time.monotonic() + timeout_s
    found = log.bounds(places, timeout_s)
    while any(reader.position(place) < end for place, (_, end) in found.items()):
        if time.monotonic() > deadline:
            raise LogUnavailable(f"{places[0].topic}: its end was not reached within {timeout_s:.0f} s")
        for record in reader.poll(0.1).records:
            apply(record)


def standing(
    log: RecordLog, places: Sequence[TopicPartition], patience_s: float = 10.0, most: int = 5000
) -> Iterator[Sequence[LogRecord]]:
    """What stands on these partitions now, the oldest first, as it comes (a piece may be empty). Raises LogUnavailable
    once nothing has come for patience_s."""
    ends: dict[TopicPartition, int] = {}
    starts: dict[TopicPartition, int] = {}
    for place, (oldest, end) in log.bounds(places, patience_s).items():
        if oldest < end:
            starts[place], ends[place] = oldest, end
    if not ends:
        return
    reader = log.reader(starts)
    try:
        deadline = time.monotonic() + patience_s
        while any(reader.position(place) < end for place, end in ends.items()):
            records = reader.poll(0.2, most).records
            if records:
                deadline = time.monotonic() + patience_s
            elif time.monotonic() > deadline:
                raise LogUnavailable(f"{places[0].topic}: nothing could be read for {patience_s:.0f} s")
            yield records
    finally:
        reader.close()


def pause_only(reader: LogReader, wanted: AbstractSet[TopicPartition], paused: AbstractSet[TopicPartition]) -> None:
    """Pause what is wanted and resume the rest of what is paused, of partitions that are read here."""
    for places, change in ((wanted - paused, reader.pause), (paused - wanted, reader.resume)):
        if places:
            change(sorted(places))
