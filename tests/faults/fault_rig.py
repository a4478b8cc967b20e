"""The rig: one broker and one crew for all rows, and for each row sources of its own, which end and are accounted."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from redis_support import RedisServer

from deploy.embedded.kafka import BrokerSettings, EmbeddedKafka
from serving.adapters.kafka import KafkaLog, KafkaOptions, KafkaTopics
from serving.errors import LogError
from serving.frames import Origin
from serving.free_ports import UDP, free_port
from serving.murmur2 import partition_of
from serving.ports_log import TopicState
from serving.testing.faults import checks
from serving.testing.faults.crew import Crew, Member
from serving.testing.faults.history import COMMITS, FrameSeen, History, ResultSeen, Tail
from serving.testing.faults.proxy import BadNetwork
from serving.testing.faults.stub_model import NAME, read_mark, write_control

PARTITIONS = 4  # one a source: a group shares partitions, not load; with empty ones a worker may get three of the four
TOPICS = {"frames": PARTITIONS, "results": PARTITIONS, "outcomes": PARTITIONS, "timelines": PARTITIONS}
TOPIC_SETTINGS = {"max.message.bytes": str(4 << 20)}
CLOSE_S = 66.0  # max(60 s, D + L), and what the accountant takes to see it
SENDER = Path(__file__).with_name("fault_sender.py")


@dataclass(frozen=True)
class Load:
    """What a row is run with. seconds: of a row. The defaults are the standard load of docs/faults.md."""

    seconds: float = 90
    sources: int = 4
    fps: int = 15
    workers: int = 3
    delay_ms: int = 1000
    clip_s: float = 20.0

    @classmethod
    def asked(cls, quick: bool) -> Load:
        """By FAULT_SECONDS, FAULT_SOURCES, FAULT_FPS, FAULT_WORKERS, FAULT_DELAY_MS; quick: a smaller one by default,
        for machines that do other things at the same time."""
        base = cls(20, 3, 8, 3, 2000) if quick else cls()
        given = {name: os.environ.get(f"FAULT_{name.upper()}") for name in ("sources", "fps", "workers", "delay_ms")}
        seconds = float(os.environ.get("FAULT_SECONDS", base.seconds))
        return replace(base, seconds=seconds, **{name: int(value) for name, value in given.items() if value})

    @property
    def scale(self) -> float:
        """How long this row is against the standard one."""
        return self.seconds / 90

    def lasting(self, seconds: float) -> float:
        """So many seconds of the standard row, at this row's length."""
        return seconds * self.scale

    def text(self) -> str:
        """For the head of the table."""
        return (
            f"{self.sources} sources x {self.fps} fps, 320x240, B-frames, coded; {self.workers} workers, stub model"
            f" 20 +/- 10 ms, D {self.delay_ms} ms, {self.seconds:g} s a row"
        )


class Rig:
    """Broker, topics, workers, mixer, accountant, and the tail that follows all of it."""

    def __init__(self, folder: Path, load: Load, **properties: str) -> None:
        self.folder, self.load, self.mutant = folder, load, ""
        self.prefix = "faults."
        self.behind = free_port(), free_port()  # where the broker listens for a proxy, and the proxy's own port
        self.broker = EmbeddedKafka(BrokerSettings(folder / "kafka", properties=properties, behind=self.behind))
        self.control = folder / "control.json"
        self.releases_file = folder / "releases.jsonl"
        self.crew = Crew(folder)
        self.redis = RedisServer(folder)
        self._rows = itertools.count(1)
        self._crew_began = False

    def __enter__(self) -> Rig:
        try:
            self._begin()
        except BaseException:
            self.__exit__(None)
            raise
        return self

    def _begin(self) -> None:
        if shutil.which("redis-server"):
            self.redis.start()
        self.broker.start()
        options = KafkaOptions(self.broker.bootstrap, delivery_timeout_s=0)
        self.log = KafkaLog(options)
        admin = KafkaTopics(options)
        for topic, partitions in {**TOPICS, "streams": PARTITIONS, "dead_letter": 1}.items():
            admin.create(self.prefix + topic, TopicState(partitions, 1, TOPIC_SETTINGS))
        self.crew.__enter__()
        self._crew_began = True
        self.calm()
        self.releases_file.touch()
        self.start_crew()
        self.crew.until(self._has_positions, "the broker keeps positions of groups", 90)
        self.tail = Tail(self.log, self.prefix)

    def _has_positions(self) -> bool:
        """Kafka makes the topic of committed positions when the first group asks for it."""
        try:
            return self.log.partitions(COMMITS) > 0
        except LogError:
            return False

    def __exit__(self, *error: object) -> None:
        if hasattr(self, "tail"):
            self.tail.close()
        if self._crew_began:
            self.crew.__exit__(*error)
        self.broker.stop()
        self.redis.close()

    @property
    def history(self) -> History:
        return self.tail.history

    @property
    def workers(self) -> list[str]:
        """Names of the standard workers."""
        return [f"worker-{n}" for n in range(self.load.workers)]

    def calm(self, **values: Any) -> None:
        """Write the stub's control file: the standard model, and what a fault makes of it."""
        write_control(self.control, **{"latency_ms": 20, "jitter_ms": 10, **values})

    @contextmanager
    def bad_network(self, *names: str, **how: float) -> Iterator[BadNetwork]:
        """Within the block these workers reach the broker through a bad network."""
        listens, proxy = self.behind
        with BadNetwork(proxy, listens, **how) as network:
            for name in names:
                self.crew.stop(name)
                self.crew.start(name, self.spec("worker", name, kafka=f"127.0.0.1:{proxy}"))
            try:
                yield network
            finally:
                network.mend()
                for name in names:
                    self.crew.stop(name)
                self.start_crew()

    @contextmanager
    def mutated(self, mutant: str) -> Iterator[None]:
        """Within the block the workers have a defect (serving.testing.mutants.roles)."""
        self._replace_workers(mutant)
        try:
            yield
        finally:
            self.calm()
            self._replace_workers("")

    def _replace_workers(self, mutant: str) -> None:
        self.mutant = mutant
        for name in self.workers:
            if self.crew.alive(name):
                self.crew.stop(name)
        self.start_crew()

    def start_crew(self) -> None:
        """Start whoever does not run."""
        for name in [*self.workers, "mixer", "accountant"]:
            if not self.crew.alive(name):
                self.crew.start(name, self.spec(name.partition("-")[0], name))

    def spec(self, role: str, name: str, **more: Any) -> dict[str, Any]:
        """What a process of a role is told."""
        base = {
            "role": role, "name": name, "kafka": self.broker.bootstrap, "prefix": self.prefix, "static": True,
            "folder": str(self.folder / name), "control": str(self.control), "mark": str(self.mark(name)),
            "releases": str(self.releases_file), "output": str(self.folder / "mixed"),
            "delay_ms": self.load.delay_ms, "redis": self.redis.url if shutil.which("redis-server") else "",
        }  # fmt: skip
        mutant = {"mutant": self.mutant} if role == "worker" and self.mutant else {}
        return {**base, **mutant, **more}

    def gateway(self) -> dict[str, str]:
        """Settings of a gateway that shows this rig's streams beside its models."""
        settings = {"kafka": self.broker.bootstrap, "kafka_prefix": self.prefix}
        return settings | ({"redis": self.redis.url} if shutil.which("redis-server") else {})

    def restarts(self) -> int:
        """How often a process of the standing crew has ended so far."""
        return sum(len(self.crew.members[name].exits) for name in [*self.workers, "mixer", "accountant"])

    def mark(self, name: str) -> Path:
        """Where a worker writes what it is at."""
        return self.folder / f"{name}.mark"

    def at_work(self, name: str) -> str:
        """CLIP:INDEX of the picture that a worker has in hand; empty for none."""
        return read_mark(self.mark(name))

    def releases(self, sources: Collection[str]) -> list[dict[str, Any]]:
        """What the mixers showed of these sources."""
        lines = (json.loads(line) for line in self.releases_file.read_text().splitlines() if line.endswith("}"))
        return [line for line in lines if line["source"] in sources]

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """The newest committed position of each partition."""
        wanted = (self.prefix + group, self.prefix + topic)
        return {c.partition: c.offset for c in self.history.commits if (c.group, c.topic) == wanted}

    @contextmanager
    def row(
        self, name: str, sources: int | None = None, cameras: Callable[[Row], None] | None = None, first: int = 0,
        **ingest: Any,
    ) -> Iterator[Row]:  # fmt: skip
        """Sources that send, until the block ends; then they are stopped and everything is accounted.

        cameras: changes the row (start_pts by camera, more_cameras, large) before anything starts. first: the first
        source's partition, the others lie on the next ones. ingest: told to
        ingesters; a name that ends with _by_clip has a value for some of them.
        """
        self.start_crew()
        self.calm()
        count = self.load.sources if sources is None else sources
        row = Row(self, f"{name.lower()}n{next(self._rows)}", count, first)
        try:
            if cameras is not None:
                cameras(row)
            row.begin(**ingest)
            yield row
            row.finish()
        finally:
            row.end()


class Row:
    """One row's sources: clip n is source n, on a partition of its own as far as there are any."""

    def __init__(self, rig: Rig, name: str, sources: int, first: int = 0) -> None:
        self.rig, self.name, self._first = rig, name, first
        self.sources = [self._name(n) for n in range(sources)]
        self.ports = [free_port(UDP) for _ in self.sources]
        self.ingests = {source: f"ingest-{source}" for source in self.sources}
        self.began = 0.0
        self.start_pts: dict[int, int] = {}
        self.more_cameras: list[dict[str, int]] = []
        self.large: set[int] = set()  # cameras with pictures of 1440x1080, every tenth of them noise
        self._sender: subprocess.Popen[str] | None = None

    def _name(self, number: int) -> str:
        """A name whose partition is the source's number, counted from the first one's."""
        names = (f"{self.name}-{number}{letter}{n}" for n in range(100) for letter in "abcdefghijk")
        wanted = (self._first + number) % PARTITIONS
        return next(name for name in names if partition_of(name.encode(), PARTITIONS) == wanted)

    # -- life -------------------------------------------------------------------------------------------------------

    def begin(self, **ingest: Any) -> None:
        """Cameras send, ingest reads, and every source has a result."""
        if not self.sources:
            self.began = time.time()
            return
        cameras = [{"clip": n, "port": port, "large": n in self.large} for n, port in enumerate(self.ports)]
        for number, pts in self.start_pts.items():
            cameras[number]["pts"] = pts
        cameras += self.more_cameras
        load = self.rig.load
        told = {"fps": load.fps, "seconds": load.clip_s, "cameras": cameras}
        clips = self.rig.folder / "clips"
        clips.mkdir(exist_ok=True)
        with (self.rig.folder / "sender.log").open("ab") as log:
            self._sender = subprocess.Popen(
                [sys.executable, str(SENDER), str(clips), json.dumps(told)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self._sender.stdout is not None and self._sender.stdin is not None
        for source, port in zip(self.sources, self.ports, strict=True):
            self.start_ingest(source, port, **ingest)
        if self._sender.stdout.readline() != "ready\n":
            raise RuntimeError(f"the cameras do not start: {(self.rig.folder / 'sender.log').read_text()[-2000:]}")
        self.until(lambda: all(_is_bound(port) for port in self.ports), "ingest listens")
        self._sender.stdin.write("go\n")
        self._sender.stdin.flush()
        self.until(lambda: all(self.results(source) for source in self.sources), "every source has a result", 120)
        self.began = time.time()

    def start_ingest(self, source: str, port: int, name: str = "", **more: Any) -> Member:
        """An ingester of a camera."""
        name, clip = name or self.ingests[source], str(self.sources.index(source))
        of_clip = {k.removesuffix("_by_clip"): v.get(clip) for k, v in more.items() if k.endswith("_by_clip")}
        more = {k: v for k, v in more.items() if not k.endswith("_by_clip")} | of_clip
        address = f"udp://127.0.0.1:{port}"
        spec = self.rig.spec("ingest", name, source_id=source, address=address, **more)
        return self.rig.crew.start(name, spec, keep=False)

    def camera(self, number: int, what: str, **more: Any) -> None:
        """An order to a camera."""
        assert self._sender is not None and self._sender.stdin is not None
        self._sender.stdin.write(json.dumps({"camera": number, "do": what, **more}) + "\n")
        self._sender.stdin.flush()

    def finish(self) -> None:
        """Stop the sources in good order; wait until every key is closed and the tail has it all."""
        for name in self._running():
            self.rig.crew.strike(name, signal.SIGTERM)
        for name in self._running():
            self.until(lambda name=name: not self.rig.crew.alive(name), f"{name} ends")  # type: ignore[misc]
        self.until(lambda: self.unaccounted() == 0, "every key is closed", CLOSE_S + 10, why=self._why)
        self.rig.tail.caught_up()

    def end(self) -> None:
        """Leave nothing running, whatever happened."""
        for name in self._running():
            self.rig.crew.strike(name, signal.SIGKILL)
        if self._sender is not None:
            assert self._sender.stdin is not None and self._sender.stdout is not None
            self._sender.kill()
            self._sender.wait()
            self._sender.stdin.close()
            self._sender.stdout.close()

    def _running(self) -> list[str]:
        mine = [m for m in self.rig.crew.members.values() if m.spec.get("source_id") in self.sources]
        return [member.name for member in mine if member.pid is not None]

    # -- what was seen ----------------------------------------------------------------------------------------------

    def results(self, source: str) -> list[ResultSeen]:
        return self.rig.history.results[source]

    def frames(self, source: str) -> list[FrameSeen]:
        return self.rig.history.frames[source]

    def unaccounted(self) -> int:
        return checks.account(self.rig.history, self.sources).unaccounted

    def account(self, sources: Collection[str] | None = None) -> checks.Account:
        return checks.account(self.rig.history, self.sources if sources is None else sources)

    def fresh_after(self, source: str, at: float) -> float | None:
        """Seconds from `at` to the first result of a frame that was written after it; None: none yet."""
        frames = list(self.frames(source))
        after = {(f.epoch, f.first) for f in frames if f.place.at_ms >= at * 1000 and not f.drop_reason}
        for result in list(self.results(source)):
            if result.outcome == "result" and (result.epoch, result.seq) in after:
                return result.place.at_ms / 1000 - at
        return None

    def recovery(self, at: float, sources: Sequence[str] | None = None, patience_s: float = 30.0) -> dict[str, float]:
        """By source, seconds until it was fresh again; waits for it, and gives infinity where it stays away."""
        wanted = self.sources if sources is None else sources
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and any(self.fresh_after(s, at) is None for s in wanted):
            time.sleep(0.1)
        return {s: found if (found := self.fresh_after(s, at)) is not None else math.inf for s in wanted}

    def ages(self, sources: Collection[str], since: float = 0.0, until: float = math.inf) -> list[float]:
        """Seconds between a frame and its result on the log, of frames that were written in that time."""
        found = []
        for source in sources:
            at = {(f.epoch, f.first): f.place.at_ms for f in self.frames(source)}
            for result in self.results(source):
                written = at.get((result.epoch, result.seq))
                if result.outcome == "result" and written is not None and since * 1000 <= written <= until * 1000:
                    found.append((result.place.at_ms - written) / 1000)
        return found

    def shown_at(self, source: str) -> dict[tuple[int, int], float]:
        """When the camera had shown each frame (seconds since 1970), by PTS and the least delay that an epoch had."""
        frames = [f for f in self.frames(source) if f.pts_ns is not None]
        anchors: dict[int, float] = {}
        for frame in frames:
            off = frame.place.at_ms / 1e3 - (frame.pts_ns or 0) / 1e9
            anchors[frame.epoch] = min(anchors.get(frame.epoch, off), off)
        return {(f.epoch, f.first): anchors[f.epoch] + (f.pts_ns or 0) / 1e9 for f in frames}

    def shown_ages(self, sources: Collection[str], since: float, until: float) -> list[float]:
        """Seconds between camera and mixed picture, of pictures with a measured box."""
        found = []
        for source in sources:
            shown = self.shown_at(source)
            for r in self.rig.releases([source]):
                if since <= r["at"] <= until and any(origin == Origin.MEASURED.value for _, origin in r["boxes"]):
                    found.append(r["at"] - shown[r["epoch"], r["seq"]])
        return found

    def stall(self, source: str, since: float, until: float) -> float | None:
        """The longest time without a result, seconds."""
        ats = [r.place.at_ms / 1e3 for r in self.results(source) if r.outcome == "result"]
        ats = [since, *sorted(at for at in ats if since <= at <= until), until]
        return max(b - a for a, b in itertools.pairwise(ats))

    def completed(self, sources: Collection[str], since: float, until: float) -> float:
        """Share of the frames written in that time that have a result."""
        done = wanted = 0
        for source in sources:
            answered = {(r.epoch, r.seq) for r in self.results(source) if r.outcome == "result"}
            places = [(f.epoch, f.first) for f in self.frames(source) if since * 1000 <= f.place.at_ms <= until * 1000]
            wanted += len(places)
            done += len(answered.intersection(places))
        return done / wanted if wanted else 0.0

    def coverage(self, sources: Collection[str], since: float = 0.0, until: float = math.inf) -> float:
        """Shown pictures with a box, of all that were shown."""
        shown = [r for r in self.rig.releases(sources) if since <= r["at"] <= until]
        return sum(bool(r["boxes"]) for r in shown) / len(shown) if shown else 0.0

    def owner(self, source: str) -> str:
        """The worker that gave the newest results of a source, by what it has in hand; waits until one has it."""
        clip = self.sources.index(source)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for name in self.rig.workers:
                if self.rig.crew.alive(name) and self.rig.at_work(name).startswith(f"{clip}:"):
                    return name
            time.sleep(0.001)
        raise TimeoutError(f"nobody works on {source}")

    def faults(self, once: bool = True) -> list[str]:
        """The history checker, and what was drawn."""
        group, topic = self.rig.prefix + f"worker-{NAME}", self.rig.prefix + "frames"
        found = checks.check(self.rig.history, self.sources, group, topic)
        if self.sources:
            found += checks.check_releases(self.rig.releases(self.sources), self.sources, once)
        return found

    def until(
        self,
        condition: Callable[[], bool],
        what: str,
        patience_s: float = 30.0,
        why: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        try:
            self.rig.crew.until(condition, what, patience_s)
        except TimeoutError as error:
            told = why() if why is not None else {n: self.rig.crew.said(n)[-600:] for n in self.rig.crew.members}
            raise AssertionError(f"{error}: {told}") from None

    def _why(self) -> Mapping[str, Any]:
        return {source: self.account([source]).text() for source in self.sources}


def _is_bound(port: int) -> bool:
    """Somebody holds this UDP port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
