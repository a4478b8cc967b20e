"""The roles as processes of their own, started by their commands, on a real broker with a real engine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from triton_support import redness_model

from deploy.embedded.kafka import EmbeddedKafka
from serving.adapters.kafka import KafkaLog, KafkaOptions
from serving.adapters.video.clips import ClipSpec, write_clip
from serving.ports_log import TopicPartition

pytestmark = pytest.mark.needs("kafka")
FRAMES = 30
LOCKSTEP = """
import sys, typer
from serving.cli import commands_roles, commands_topics
from serving.errors import LockstepError
app = typer.Typer(pretty_exceptions_enable=False)
commands_roles.register(app); commands_topics.register(app)
try:
    app()
except LockstepError as error:
    sys.exit(f"error[{error.code}]: {error}")
"""


class Shell:
    """Commands of one system, and what still runs of them."""

    def __init__(self, folder: Path, kafka: str, prefix: str = "procs.") -> None:
        self.folder = folder
        self.config = folder / "lockstep.yaml"
        self.config.write_text(f"kafka: {kafka}\nkafka_prefix: {prefix}\nrepository: {folder / 'repository'}\n")
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", LOCKSTEP, *arguments, "--config", str(self.config)]

    def run(self, *arguments: str) -> tuple[int, Any]:
        done = subprocess.run(
            self.command(*arguments, "--json"), capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr

    def start(self, *arguments: str, log: str = "") -> None:
        name = log or arguments[0]
        with (self.folder / f"{name}.log").open("wb") as file:
            self.running[name] = subprocess.Popen(self.command(*arguments), stdout=file, stderr=file)

    def stop(self) -> dict[str, int]:
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        return {name: process.wait(25) for name, process in self.running.items()}

    def kill(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


@pytest.fixture
def shell(kafka: EmbeddedKafka, tmp_path: Path) -> Iterator[Shell]:
    redness_model(tmp_path / "repository")
    made = Shell(tmp_path, kafka.bootstrap)
    yield made
    made.kill()


def test_one_clip_through_four_processes(shell: Shell, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    reds = ((np.full((64, 96, 3), (20 + 6 * n, 40, 40), np.uint8), 3000 * n) for n in range(FRAMES))
    write_clip(clip, ClipSpec("mp4", Fraction(1, 90_000)), reds)
    code, done = shell.run("topics", "apply")
    assert code == 0, done
    shell.start("worker", "--model", "redness")
    shell.start("mixer", "--output", str(tmp_path / "mixed"))
    shell.start("accountant")
    code, done = shell.run("ingest", "gate", str(clip), "--model", "redness")
    assert code == 0 and done["records"] == FRAMES, done
    deadline = time.monotonic() + 150
    while (found := shell.run("ledger", "gate"))[0] != 0 and time.monotonic() < deadline:
        logs = {name: (tmp_path / f"{name}.log").read_text()[-1500:] for name in shell.running}
        assert all(process.poll() is None for process in shell.running.values()), logs
    (row,) = found[1]
    assert row["balanced"] and (row["accepted"], row["results"], row["holes"], row["open"]) == (FRAMES, FRAMES, 0, 0)
    playlist = tmp_path / "mixed" / "gate" / "index.m3u8"
    while not (playlist.exists() and "ENDLIST" in playlist.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert shell.stop() == {"worker": 0, "mixer": 0, "accountant": 0}
    with av.open(str(playlist)) as mixed:
        assert sum(1 for _ in mixed.decode(video=0)) == FRAMES


def written(kafka: str, topic: str) -> int:
    """Records of a topic of this system."""
    log = KafkaLog(KafkaOptions(kafka))
    places = [TopicPartition(f"procs.{topic}", n) for n in range(log.partitions(f"procs.{topic}"))]
    return sum(end for _, end in log.bounds(places).values())


@pytest.mark.faults
def test_f1_killed_roles_lose_no_frame_and_count_none_twice(shell: Shell, kafka: EmbeddedKafka, tmp_path: Path) -> None:
    """kill -9 of a worker and of the accountant while a file runs through; others of their kind take over."""
    frames = 1500
    clip = tmp_path / "clip.mp4"
    reds = ((np.full((64, 96, 3), (20 + n % 200, 40, 40), np.uint8), 3000 * n) for n in range(frames))
    write_clip(clip, ClipSpec("mp4", Fraction(1, 90_000)), reds)
    assert shell.run("topics", "apply")[0] == 0
    before = written(kafka.bootstrap, "results")
    shell.start("worker", "--model", "redness")
    shell.start("accountant")
    shell.start("ingest", "gates", str(clip), "--model", "redness")
    deadline = time.monotonic() + 120
    for share, name, arguments in ((0.1, "worker", ("--model", "redness")), (0.3, "accountant", ())):
        while written(kafka.bootstrap, "results") - before < share * frames:
            assert time.monotonic() < deadline, (tmp_path / f"{name}.log").read_text()
            time.sleep(0.05)
        assert written(kafka.bootstrap, "results") - before < 0.9 * frames, "killed while records are in flight"
        shell.running[name].kill()
        shell.running[name].wait()
        shell.start(name, *arguments)
    while (found := shell.run("ledger", "gates"))[0] != 0 and time.monotonic() < deadline:
        time.sleep(0.5)
    (row,) = found[1]
    assert row["balanced"] and (row["accepted"], row["results"]) == (frames, frames), row
    assert shell.running.pop("ingest").wait(10) == 0
    assert shell.stop() == {"worker": 0, "accountant": 0}
