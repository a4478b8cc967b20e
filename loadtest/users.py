"""One generator process: locust users that send a plan's requests at their intended times.

    python -m loadtest.users PLAN INDEX RECORDS

A pool of users shares the plan's arrivals. A user takes the next one, waits until it is due and sends it; where all
are busy it goes out late, and its latency still counts from the time at which it was meant to go (no coordinated
omission). A plan without times is a closed loop: every user sends as soon as its last answer came.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, ClassVar

import gevent
from locust import FastHttpUser, task
from locust.env import Environment
from locust.exception import StopUser


@dataclass(frozen=True, slots=True)
class Shot:
    """One request and its answer; seconds since the start of the run. status 0: no answer came."""

    phase: int
    work: int
    payload: int
    due_s: float
    sent_s: float
    ended_s: float
    status: int


class Range:
    """The arrivals of one workload in this process, and what came of them. start: on the monotonic clock."""

    def __init__(self, plan: dict[str, Any], work: int, rows: list[list[Any]]) -> None:
        self.plan, self.work, self.start = plan, work, 0.0
        self.rows: Iterator[list[Any]] = iter(rows)
        self.shots: list[Shot] = []
        self.bodies = [Path(p["path"]).read_bytes() for p in plan["payloads"]]

    def now(self) -> float:
        return time.monotonic() - self.start

    def take(self) -> list[Any]:
        """The next arrival, when it is due. StopUser at the end."""
        row = next(self.rows, None)
        if row is None or (row[0] < 0 and self.now() > self.plan["seconds"]):
            raise StopUser
        if row[0] >= 0:
            gevent.sleep(max(0.0, row[0] - self.now()))
        return row


class OpenLoopUser(FastHttpUser):
    """Sends what its range says. Subclasses say how a request of their workload is made."""

    abstract = True
    range: ClassVar[Range]
    network_timeout = connection_timeout = 10.0

    @task
    def shoot(self) -> None:
        due, phase, payload = self.range.take()
        sent = self.range.now()
        status = self.request(payload)
        self.range.shots.append(
            Shot(phase, self.range.work, payload, due if due >= 0 else sent, sent, self.range.now(), status)
        )

    def request(self, payload: int) -> int:
        """Send one; its status."""
        raise NotImplementedError


class PictureUser(OpenLoopUser):
    """Posts bodies of the mix to a model or pipeline: classification, detection, embedding, faces."""

    abstract = True

    def request(self, payload: int) -> int:
        plan = self.range.plan
        headers = {"Content-Type": plan["payloads"][payload]["content_type"]}
        headers["X-Request-Timeout-Ms"] = str(plan["deadline_ms"])
        url = plan["works"][self.range.work]["route"]
        return int(self.client.post(url, data=self.range.bodies[payload], headers=headers).status_code or 0)


class StreamUser(OpenLoopUser):
    """Registers a source, reads it and takes it off again; good where all three were answered as they should be."""

    abstract = True
    count: ClassVar[int] = 0

    def request(self, payload: int) -> int:
        work = self.range.plan["works"][self.range.work]
        StreamUser.count += 1
        name = f"load-{self.range.plan['index']}-{StreamUser.count}"
        body = json.dumps({"source_id": name, "address": work["address"], "pipelines": work["pipelines"]})
        headers = {"Content-Type": "application/json"}
        first = int(self.client.post("/v1/streams", data=body, headers=headers).status_code or 0)
        if first != 201:
            return first
        read = int(self.client.get(f"/v1/streams/{name}", name="/v1/streams/ID").status_code or 0)
        gone = int(self.client.delete(f"/v1/streams/{name}", name="/v1/streams/ID").status_code or 0)
        return 200 if (read, gone) == (200, 204) else max(read, gone)


def users_of(plan: dict[str, Any], index: int) -> tuple[list[type[OpenLoopUser]], list[Range]]:
    """A user class and a range for each workload: every n-th arrival of the plan is this process's."""
    mine = plan["arrivals"][index :: plan["processes"]]
    ranges, classes = [], []
    for number, work in enumerate(plan["works"]):
        part = Range(plan, number, [[due, phase, payload] for due, phase, w, payload in mine if w == number])
        base = StreamUser if work["kind"] == "streams" else PictureUser
        members = {"range": part, "abstract": False, "fixed_count": work["users"], "host": plan["host"]}
        classes.append(type(f"{base.__name__}{number}", (base,), members))
        ranges.append(part)
    return classes, ranges


def main() -> None:
    """Read the plan, say `ready`, read the time of the start, send this process's share, write a line a request."""
    plan_file, index, records = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    plan = {**json.loads(plan_file.read_text()), "index": index}
    classes, ranges = users_of(plan, index)
    runner = Environment(user_classes=classes, host=plan["host"]).create_local_runner()
    print("ready", flush=True)
    start = float(sys.stdin.readline())
    for part in ranges:
        part.start = start
    users = sum(work["users"] for work in plan["works"])
    runner.start(users, spawn_rate=users)
    runner.spawning_greenlet.join()  # start() returns before there is a user
    until = start + plan["seconds"] + 25
    while runner.user_count and time.monotonic() < until:
        gevent.sleep(0.05)
    runner.quit()
    with records.open("w", newline="") as sink:
        csv.writer(sink).writerows(astuple(shot) for part in ranges for shot in part.shots)


if __name__ == "__main__":
    main()
