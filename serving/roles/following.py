"""Reading a small compacted topic to its present end, and letting partitions wait on the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from serving.errors import LogUnavailable
from serving.ports_log import LogReader, LogRecord, RecordLog, TopicPartition
from serving.records.recorded import ends


def read_to_end(
    log: RecordLog, reader: LogReader, places: Sequence[TopicPartition], timeout_s: float,
    apply: Callable[[LogRecord], object],
) -> None:  # fmt: skip
    """Apply what `reader` gives until each place is read to where it ends now. Raises LogUnavailable.

    The ends are asked for on a connection of their own: behind the reader's open fetch each answer waits for 0.1 s.
    """
    deadline = time.monotonic() + timeout_s
    asking = log.reader({})
    try:
        found = ends(asking, places)
    finally:
        asking.close()
    while any(reader.position(place) < end for place, (_, end) in found.items()):
        if time.monotonic() > deadline:
            raise LogUnavailable(f"{places[0].topic}: its end was not reached within {timeout_s:.0f} s")
        for record in reader.poll(0.1).records:
            apply(record)


def pause_only(reader: LogReader, wanted: AbstractSet[TopicPartition], paused: AbstractSet[TopicPartition]) -> None:
    """Pause what is wanted and resume the rest of what is paused, of partitions that are read here."""
    for places, change in ((wanted - paused, reader.pause), (paused - wanted, reader.resume)):
        if places:
            change(sorted(places))
