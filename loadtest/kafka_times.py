"""When frames of a source and their results were written, by the log's own clock.

Read with kafka-python, by the documentation of the topics alone: another client than the one that is measured.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

READY_S = 60.0
Key = tuple[int, int]  # epoch, frame_seq


class Times:
    """What came since it began to follow. Times in seconds since 1970."""

    def __init__(self) -> None:
        self.written: dict[Key, float] = {}
        self.answered: dict[Key, float] = {}  # the first result
        self.hops: list[float] = []  # from the log to this reader, seconds

    def take(self, topic: str, record: Any, now: float) -> None:
        """One record of `frames` or `results`. Of frames that bring no picture nothing is kept."""
        at = record.timestamp / 1e3
        self.hops.append(now - at)
        if topic == "results":
            told = json.loads(record.value)
            if told["outcome"] == "result":
                self.answered.setdefault((told["epoch"], told["frame_seq"]), at)
        elif record.value:
            headers = dict(record.headers)
            self.written.setdefault((int(headers["epoch"]), int(headers["frame_seq"])), at)

    def ages(self, since: float, until: float) -> list[float]:
        """Seconds from a frame to its result, of frames written in that time that have one."""
        written = [(key, at) for key, at in list(self.written.items()) if since <= at <= until]
        return [self.answered[key] - at for key, at in written if key in self.answered]

    def fresh_after(self, at: float) -> float | None:
        """Seconds from `at` to the first result of a frame written after it; None: there is none yet."""
        came = [self.answered[key] for key, written in list(self.written.items())
                if written >= at and key in self.answered]  # fmt: skip
        return min(came) - at if came else None


@contextmanager
def following(address: str, prefix: str, source_id: str) -> Iterator[Times]:
    """Within the block a thread reads what is written from now on. Outages of the broker are waited for."""
    times, over, ready = Times(), threading.Event(), threading.Event()
    thread = threading.Thread(target=_follow, args=(address, prefix, source_id, times, over, ready), daemon=True)
    thread.start()
    try:
        if not ready.wait(READY_S):
            raise RuntimeError(f"topics of {address} cannot be followed: not within {READY_S:.0f} s")
        yield times
    finally:
        over.set()
        thread.join(READY_S)


def _follow(
    address: str, prefix: str, source_id: str, times: Times, over: threading.Event, ready: threading.Event
) -> None:
    from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]

    consumer = KafkaConsumer(bootstrap_servers=address, reconnect_backoff_max_ms=500, max_partition_fetch_bytes=4 << 20)
    try:
        names = {prefix + topic: topic for topic in ("frames", "results")}
        places = [TopicPartition(name, n) for name in names for n in consumer.partitions_for_topic(name) or ()]
        consumer.assign(places)
        consumer.seek_to_end()
        for place in places:
            consumer.position(place)
        ready.set()
        while not over.is_set():
            for place, records in consumer.poll(100).items():
                now = time.time()
                for record in records:
                    if record.key == source_id.encode():
                        times.take(names[place.topic], record, now)
    finally:
        consumer.close()
