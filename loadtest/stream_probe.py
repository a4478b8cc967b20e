"""A stranger that counts, orders and ages the results of one source, from server-sent events, HLS and Kafka.

    python -m loadtest.stream_probe http://127.0.0.1:8080 SOURCE [--kafka HOST:PORT] [--seconds 20] [--json]

None of Lockstep's modules is imported: httpx, a Kafka client and docs/rest.md, docs/kafka.md are enough. The age of a
result is this machine's clock minus `capture_ns`, an estimate: where the ingest's clock is another, so is the age.
Exit 1 where a way gave nothing, gave a key twice, or gave keys out of order.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx
import numpy as np

Key = tuple[int, int, str]


@dataclass(slots=True)
class Tally:
    """What came on one way. Keys are (epoch, pts_ns, pipeline); ages in seconds."""

    way: str
    ordered: bool = True
    outcomes: dict[str, int] = field(default_factory=dict)
    twice: int = 0
    out_of_order: int = 0
    ages: list[float] = field(default_factory=list)
    error: str = ""
    _seen: set[Key] = field(default_factory=set)
    _last: tuple[int, int] = (0, -1)

    def add(self, key: Key, outcome: str, age_s: float | None) -> None:
        """One record. Two pipelines of one picture have one place in the order."""
        self.twice += key in self._seen
        self._seen.add(key)
        self.out_of_order += key[:2] < self._last
        self._last = max(self._last, key[:2])
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if age_s is not None:
            self.ages.append(age_s)

    @property
    def good(self) -> bool:
        """Something came; where the way promises an order, each key once and in it."""
        return not self.error and bool(self.outcomes) and not (self.ordered and (self.twice or self.out_of_order))

    def row(self) -> dict[str, Any]:
        """As it is printed."""
        ages = {f"age_p{q}_s": round(float(np.percentile(self.ages, q)), 3) if self.ages else None for q in (50, 99)}
        return {"way": self.way, "outcomes": self.outcomes, "twice": self.twice, "out_of_order": self.out_of_order,
                **ages, "error": self.error, "ok": self.good}  # fmt: skip


def from_document(tally: Tally, document: dict[str, Any], now: float) -> None:
    """Count one result document (docs/results.schema.json); `now`: seconds since 1970. A dropped run has no place."""
    if document["pts_ns"] is None:
        tally.outcomes[document["outcome"]] = tally.outcomes.get(document["outcome"], 0) + 1
        return
    age = now - document["capture_ns"] / 1e9 if document.get("capture_ns") and document["outcome"] == "result" else None
    tally.add((document["epoch"], document["pts_ns"], document["pipeline"]), document["outcome"], age)


def sse(base: str, source: str, seconds: float) -> Tally:
    """`/v1/streams/ID/events`: each key once, in the order of (epoch, pts_ns)."""
    tally = Tally("events")
    url = f"{base}/v1/streams/{source}/events"
    with httpx.stream("GET", url, params={"seconds": max(1, round(seconds))}, timeout=seconds + 15) as answer:
        answer.raise_for_status()
        for data in event_data(answer.iter_lines()):
            from_document(tally, data, time.time())
    return tally


def event_data(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The `data` of each server-sent event (WHATWG HTML, 9.2) as JSON; what has no data is passed by."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield json.loads("\n".join(data))
            data = []


def hls(base: str, source: str, seconds: float) -> Tally:
    """`hls/index.m3u8` and the table beside each segment: the pictures of the mixed video, each once, in order."""
    tally, until, done = Tally("hls"), time.monotonic() + seconds, set[str]()
    folder = f"{base}/v1/streams/{source}/hls"
    with httpx.Client(timeout=10) as client:
        while True:  # once at least, however long the client took to be made
            playlist = client.get(f"{folder}/index.m3u8").raise_for_status().text
            for name in (line.removesuffix(".m4s") for line in playlist.splitlines() if line.endswith(".m4s")):
                if name not in done:
                    done.add(name)
                    for picture in client.get(f"{folder}/{name}.json").raise_for_status().json()["frames"]:
                        tally.add((picture["key"]["epoch"], picture["key"]["pts_ns"], ""), "shown", None)
            if time.monotonic() > until:
                return tally
            time.sleep(0.5)


def kafka(broker: str, source: str, seconds: float, prefix: str = "", first: str = "latest") -> Tally:
    """Topic `results` from now on (first: latest) or all of it (earliest).

    A key may come twice there and in any order: both are counted, neither is wrong.
    """
    from kafka import KafkaConsumer

    tally, until = Tally("kafka", ordered=False), time.monotonic() + seconds
    consumer = KafkaConsumer(prefix + "results", bootstrap_servers=broker, auto_offset_reset=first)
    try:
        while time.monotonic() < until:
            for records in consumer.poll(timeout_ms=300).values():
                for record in records:
                    if record.key == source.encode():
                        from_document(tally, json.loads(record.value), time.time())
    finally:
        consumer.close()
    return tally


def probe(ways: dict[str, Callable[[], Tally]]) -> list[Tally]:
    """All ways at once; one that fails says why and leaves the others alone."""
    found: dict[str, Tally] = {}

    def one(name: str, way: Callable[[], Tally]) -> None:
        try:
            found[name] = way()
        except Exception as error:  # noqa: BLE001 - a way's failure is its row
            found[name] = Tally(name, error=f"{type(error).__name__}: {error}".splitlines()[0])

    threads = [threading.Thread(target=one, args=item) for item in ways.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[name] for name in ways]


def main() -> None:
    """Rows on stdout; exit 1 where one is not good."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("gateway", help="http://host:port")
    words.add_argument("source", help="source_id")
    words.add_argument("--kafka", help="host:port of the broker; without it the topic is not read")
    words.add_argument("--prefix", default="", help="the setting kafka_prefix")
    words.add_argument("--first", choices=("latest", "earliest"), default="latest", help="where the topic is read from")
    words.add_argument("--seconds", type=float, default=20.0)
    words.add_argument("--no-hls", action="store_true", help="the source has no mixed video")
    words.add_argument("--json", action="store_true")
    given = words.parse_args()
    base = given.gateway.rstrip("/")
    ways: dict[str, Callable[[], Tally]] = {"events": lambda: sse(base, given.source, given.seconds)}
    if not given.no_hls:
        ways["hls"] = lambda: hls(base, given.source, given.seconds)
    if given.kafka:
        ways["kafka"] = lambda: kafka(given.kafka, given.source, given.seconds, given.prefix, given.first)
    tallies = probe(ways)
    for tally in tallies:
        row = tally.row()
        print(json.dumps(row) if given.json else "  ".join(f"{name} {value}" for name, value in row.items()))
    sys.exit(0 if all(tally.good for tally in tallies) else 1)


if __name__ == "__main__":
    main()
