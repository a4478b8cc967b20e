"""Ingest as processes of their own on a real broker, live cameras over loopback, and what came onto the log."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import psutil

from serving.adapters.kafka import KafkaLog, KafkaOptions, KafkaTopics
from serving.adapters.video.clips import ClipSpec, write_clip
from serving.adapters.video.live import send_live
from serving.clock import SystemClock
from serving.free_ports import UDP, free_port
from serving.murmur2 import partition_of
from serving.ports_log import TopicPartition, TopicState
from serving.records import FrameMessage, decode_frame
from serving.roles.following import standing
from serving.roles.names import Names
from serving.roles.timelines import Timelines
from serving.testing.sync_code import picture

FPS = 15
PARTITIONS = 4
TOPICS = ("frames", "results", "outcomes", "timelines", "streams", "dead_letter")
X264 = "bframes=2:b-adapt=0:scenecut=0:keyint=15:min-keyint=15:open-gop=0"
NUMBERS = itertools.count(1)
LOCKSTEP = "import sys; from serving.cli import main; sys.argv[0] = 'lockstep'; main()"


def make_clip(path: Path, frames: int = 45) -> Path:
    """A coded clip, a keyframe a second."""
    spec = ClipSpec("mp4", Fraction(1, 90_000), X264, Fraction(FPS))
    write_clip(path, spec, ((picture(n, 0, (40.0 + n, 90.0)), n * 90_000 // FPS) for n in range(frames)))
    return path


def one_in_each_partition(prefix: str) -> list[str]:
    """Names of sources; processes share them by partition, so each of two members has two of these."""
    named = {partition_of(f"{prefix}{n}".encode(), PARTITIONS): f"{prefix}{n}" for n in range(16 * PARTITIONS)}
    return [named[n] for n in range(PARTITIONS)]


class Camera:
    """Sends a clip to a UDP port of its own until `stop`."""

    def __init__(self, clip: Path) -> None:
        self.address = f"udp://127.0.0.1:{free_port(UDP)}"
        self._over = threading.Event()
        self._thread = threading.Thread(target=send_live, args=(clip, self.address, SystemClock(), self._over.wait))
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


class Ingest:
    """Processes of one system."""

    def __init__(self, folder: Path, kafka: str, **settings: str) -> None:
        self.folder, self.names = folder, Names(f"ing{os.getpid()}-{next(NUMBERS)}.")
        self.log = KafkaLog(KafkaOptions(kafka))
        admin = KafkaTopics(KafkaOptions(kafka))
        for topic in TOPICS:
            policy = {"cleanup.policy": "compact"} if topic in ("streams", "timelines") else {}
            admin.create(self.names.topic(topic), TopicState(PARTITIONS, 1, policy))
        self.config = folder / "lockstep.yaml"
        values = {"kafka": kafka, "kafka_prefix": self.names.prefix, "sources_allowed_hosts": "127.0.0.1", **settings}
        self.config.write_text(json.dumps(values))
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def lockstep(self, *arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", LOCKSTEP, *arguments, "--config", str(self.config)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def start(self, name: str, *arguments: str, **environment: str) -> None:
        command = [sys.executable, "-c", LOCKSTEP, "ingest", *arguments, "--config", str(self.config)]
        with (self.folder / f"{name}.log").open("ab") as out:
            env = {**os.environ, **environment}
            self.running[name] = subprocess.Popen(command, stdout=out, stderr=out, env=env)

    def children(self, name: str) -> list[psutil.Process]:
        """The processes that read sources for this one."""
        try:
            found = psutil.Process(self.running[name].pid).children()
        except psutil.NoSuchProcess:
            return []
        return [child for child in found if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]

    def kill(self) -> None:
        for name, process in self.running.items():
            children = self.children(name)
            for number in (signal.SIGCONT, signal.SIGKILL):
                for one in (process, *children):
                    try:
                        one.send_signal(number)
                    except (ProcessLookupError, psutil.NoSuchProcess):
                        break
            process.wait()

    # -- what came onto the log -------------------------------------------------------------------------------------

    def frames(self, source_id: str) -> list[FrameMessage]:
        """All records of a source, in order."""
        topic = self.names.topic("frames")
        places = [TopicPartition(topic, n) for n in range(PARTITIONS)]
        records = chain.from_iterable(standing(self.log, places))
        return [decode_frame(r.key, r.value, r.headers, 0) for r in records if r.key == source_id.encode()]

    def newest(self, source_id: str) -> tuple[int, int]:
        """(epoch, frame_seq) of the newest record; (0, -1) before the first."""
        return max(((m.record.epoch, getattr(m.record, "frame_seq", 0)) for m in self.frames(source_id)),
                   default=(0, -1))  # fmt: skip

    def ended(self, source_id: str) -> dict[int, int] | None:
        timelines = Timelines(self.log, self.names)
        try:
            timelines.catch_up()
            return timelines.ended(source_id)
        finally:
            timelines.close()

    def until(self, condition: Callable[[], Any], patience_s: float = 60.0) -> float:
        """Seconds it took until the condition held."""
        began = time.monotonic()
        while not condition():
            said = {name: (self.folder / f"{name}.log").read_text()[-1500:] for name in self.running}
            assert time.monotonic() - began < patience_s, said
            time.sleep(0.1)
        return time.monotonic() - began
