"""Two of each role as processes on a real broker: models as groups of their own, partitions shared, nothing twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from test_processes import FRAMES, Shell
from triton_support import colours_model, redness_model

from deploy.embedded.kafka import EmbeddedKafka
from serving.adapters.video.clips import ClipSpec, write_clip
from serving.murmur2 import partition_of

pytestmark = pytest.mark.needs("kafka")
PARTITIONS = 12  # deploy/kafka/topics.yaml
MODELS = ("redness", "colours")


@pytest.fixture
def shell(kafka: EmbeddedKafka, tmp_path: Path) -> Iterator[Shell]:
    redness_model(tmp_path / "repository")
    colours_model(tmp_path / "repository")
    made = Shell(tmp_path, kafka.bootstrap, "many.")
    yield made
    made.kill()


def test_two_models_two_mixers_and_two_accountants_share_four_sources(shell: Shell, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    reds = ((np.full((64, 96, 3), (20 + 6 * n, 40, 40), np.uint8), 3000 * n) for n in range(FRAMES))
    write_clip(clip, ClipSpec("mp4", Fraction(1, 90_000)), reds)
    assert shell.run("topics", "apply")[0] == 0
    for model in MODELS:
        shell.start("worker", "--model", model, log=f"worker-{model}")
    for n in (1, 2):
        shell.start("mixer", "--output", str(tmp_path / "mixed"), log=f"mixer-{n}")
        shell.start("accountant", log=f"accountant-{n}")
    # One source in each quarter of the partitions, so that any way of halving them gives both halves work.
    named = {partition_of(f"cam{n}".encode(), PARTITIONS) * 4 // PARTITIONS: f"cam{n}" for n in range(60)}
    sources = [named[quarter] for quarter in range(4)]
    wanted = [word for model in MODELS for word in ("--model", model)]
    for source in sources:
        code, done = shell.run("ingest", source, str(clip), *wanted)
        assert code == 0 and done["records"] == FRAMES, done
    deadline = time.monotonic() + 150
    while len((found := shell.run("ledger", "--all"))[1]) < 8 or found[0] != 0:
        logs = {name: (tmp_path / f"{name}.log").read_text()[-1500:] for name in shell.running}
        assert all(process.poll() is None for process in shell.running.values()) and time.monotonic() < deadline, logs
    rows = {(row["source_id"], row["pipeline"]): row for row in found[1]}
    assert rows.keys() == {(source, model) for source in sources for model in MODELS}
    assert {(row["accepted"], row["results"], row["holes"]) for row in rows.values()} == {(FRAMES, FRAMES, 0)}
    playlists = [tmp_path / "mixed" / source / "index.m3u8" for source in sources]
    while not all(path.exists() and "ENDLIST" in path.read_text() for path in playlists):
        assert time.monotonic() < deadline, "four mixed videos"
        time.sleep(0.1)
    for path in playlists:
        with av.open(str(path)) as mixed:
            assert sum(1 for _ in mixed.decode(video=0)) == FRAMES
    assert set(shell.stop().values()) == {0}
