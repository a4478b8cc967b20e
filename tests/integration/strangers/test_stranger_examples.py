"""examples/: programs of strangers, run as they stand, that read and write our topics by docs/kafka.md alone."""

from __future__ import annotations

import ast
import itertools
import json
import runpy
import shutil
import subprocess
import wave
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from strangers_support import EXAMPLES, Ours, ours, refused, stranger

from serving.align.merge import merge
from serving.frames import DeadReason, DropReason, FrameResult, Outcome, SourceKind, StreamInfo, TimelineRecord
from serving.murmur2 import partition_of
from serving.records import Encoded, TimelineMessage, encode_timeline
from serving.testing.sync_foreign import check_mixed, make_clip
from serving.types import Detections

pytestmark = pytest.mark.needs("kafka")
FRAMES = 300


@pytest.fixture
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ours]:
    with ours(request, tmp_path) as made:
        yield made


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/*.py")), ids=lambda path: path.name)
def test_examples_import_none_of_our_modules(path: Path) -> None:
    names = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert names and not {n for n in names if n.split(".")[0] in ("serving", "converters", "loadtest", "evaluation")}


def test_a_stranger_ingests_and_a_stranger_consumes(system: Ours, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    make_clip("ibbp", clip)
    said = stranger("ingest/ingest.py", system.bootstrap, "their-cam", "code", clip, system.prefix)
    assert f"their-cam epoch 1: {FRAMES} frames" in said
    row = system.balanced("their-cam")
    assert (row.accepted, row.results, row.dropped, row.dead) == (FRAMES, FRAMES, 0, 0)
    lines = stranger("consumer/consumer.py", system.bootstrap, "--prefix", system.prefix, "--until", FRAMES)
    found = lines.splitlines()
    assert len(found) == FRAMES and found[0].startswith("their-cam epoch 1 0.000 s code: ")
    assert len({line.split(" s ")[0] for line in found}) == FRAMES, "every frame once"
    alone = stranger("consumer/consumer.py", system.bootstrap, "--prefix", system.prefix, "--source", "their-cam",
                     "--until", FRAMES)  # fmt: skip
    assert sorted(alone.splitlines()) == sorted(found), "another command has a position of its own"
    mixed = stranger("mixer/mixer.py", system.bootstrap, "their-cam", clip, tmp_path / "mixed.mp4", system.prefix)
    assert mixed.strip() == f"their-cam epoch 1: boxes on {FRAMES} pictures", "its claim has what is required, no more"
    again = stranger("ingest/ingest.py", system.bootstrap, "their-cam", "code", clip, system.prefix)
    assert "their-cam epoch 2" in again, "an epoch is claimed once"
    owners = {record.key for record in system.read("timelines")}
    assert len(owners) == 2 and len({key.split(b"|")[2] for key in owners if key}) == 2, "each start has its own name"


def test_an_epoch_that_was_claimed_before_partitions_were_added_stays_claimed(system: Ours, tmp_path: Path) -> None:
    source = next(name for n in range(99) if partition_of((name := f"cam-{n}").encode(), 3) != 0)
    info = StreamInfo(source, SourceKind.FILE, Fraction(1, 90_000), 320, 240)
    claim = TimelineRecord(source, 4, "before", info.time_base, 0, 0, None, ("code",))
    system.write("timelines", (encode_timeline(TimelineMessage(claim, info, frames=0, last=True)), 0))
    clip = tmp_path / "clip.mp4"
    make_clip("ibbp", clip)
    said = stranger("ingest/ingest.py", system.bootstrap, source, "code", clip, system.prefix)
    assert f"{source} epoch 5: {FRAMES} frames" in said
    assert system.balanced(source).results == FRAMES


def test_a_picture_that_no_record_holds_keeps_its_place(system: Ours, tmp_path: Path) -> None:
    clip, rng = tmp_path / "noise.mkv", np.random.default_rng(1)
    with av.open(str(clip), "w") as out:
        writing = out.add_stream("ffv1", rate=25)
        writing.width, writing.height, writing.pix_fmt = 1600, 1200, "yuv420p"
        for picture in (np.zeros((1200, 1600, 3), np.uint8), rng.integers(0, 256, (1200, 1600, 3), np.uint8)):
            out.mux(writing.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(writing.encode(None))
    stranger("ingest/ingest.py", system.bootstrap, "noise", "code", clip, system.prefix)
    row = system.balanced("noise")
    assert (row.accepted, row.results, row.reasons) == (2, 1, {"too_large": 1})


def test_a_file_without_pictures_is_named(system: Ours, tmp_path: Path) -> None:
    sound = tmp_path / "sound.wav"
    with wave.open(str(sound), "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes(bytes(16000))
    said = refused("ingest/ingest.py", system.bootstrap, "talk", "code", sound, system.prefix)
    assert said.strip() == f"{sound}: expected pictures with PTS, found none"
    assert system.read("timelines") == [], "nothing was claimed"


@pytest.mark.filterwarnings("ignore:.*is deprecated. Use files:DeprecationWarning")  # kafka-python's, at import
def test_the_consumers_order_is_that_of_the_merge() -> None:
    module = runpy.run_path(str(EXAMPLES / "consumer" / "consumer.py"))
    results = [
        Outcome.of_result(FrameResult("code", version, "detection", Detections.empty(), digest), attempt)
        for version in (1, 12) for attempt in (1, 2) for digest in ("a" * 64, "b" * 64)
    ]  # fmt: skip
    outcomes = [*results, *(Outcome.dropped(reason, attempt) for reason in DropReason for attempt in (1, 2))]
    outcomes += [Outcome.dead_letter(reason, attempt) for reason in DeadReason for attempt in (1, 2)]

    def record(outcome: Outcome) -> dict[str, object]:
        found = outcome.result
        told = {"model_version": str(found.model_version if found else 1), "hash": found.payload_hash if found else ""}
        return told | {"outcome": outcome.status.name.lower(), "reason": outcome.reason, "attempt": outcome.attempt}

    for known, new in itertools.permutations(outcomes, 2):
        assert module["better"](record(new), record(known)) == (merge(known, new) is new), (known, new)
    place = {"source_id": "gate", "epoch": 1, "pts_ns": None, "pipeline": "code"}  # a frame without a time
    line = module["line"](place | record(Outcome.dropped(DropReason.NO_PTS)))
    assert line == "gate epoch 1 no time code: dropped (no_pts)"


def as_file(folder: Path) -> tuple[Path, Path]:
    return folder / "clip.mp4", folder / "clip.mp4"


def as_mpegts(folder: Path) -> tuple[Path, Path]:
    return folder / "clip.ts", folder / "clip.ts"


def as_hls(folder: Path) -> tuple[Path, Path]:
    (folder / "hls").mkdir()
    return folder / "clip.ts", folder / "hls" / "index.m3u8"


@pytest.mark.parametrize("container", [as_file, as_mpegts, as_hls])
def test_a_stranger_mixes_exactly(system: Ours, tmp_path: Path, container: Callable[[Path], tuple[Path, Path]]) -> None:
    """Boxes burned into the stranger's own decode, judged from pixels: every box on its own picture."""
    clip, source = container(tmp_path)
    make_clip("ibbp", clip)
    if source != clip:
        with av.open(str(clip)) as given, av.open(str(source), "w", format="hls", options={"hls_time": "3"}) as out:
            stream = out.add_stream_from_template(given.streams.video[0])
            for packet in given.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    out.mux(packet)
    system.ingest("sync", source)
    assert system.balanced("sync").results == FRAMES
    slow = []
    for record in system.read("results"):  # of a worker that was slow: the merge keeps the first ones
        worse = json.dumps(json.loads(record.value or b"") | {"attempt": 2, "detections": []})
        slow.append((Encoded(b"sync", worse.encode(), (("payload_hash", b"0" * 64),)), record.partition))
    system.write("results", *slow)
    mixed = tmp_path / "mixed.mp4"
    said = stranger("mixer/mixer.py", system.bootstrap, "sync", source, mixed, system.prefix)
    assert said.strip() == f"sync epoch 1: boxes on {FRAMES} pictures"
    score = check_mixed("ibbp", str(mixed))
    assert (score.pictures, score.unreadable) == (FRAMES, 0)
    assert score.with_box >= 0.99 * FRAMES and score.exact == 1.0, score.text()


@pytest.mark.needs("kcat")
def test_kcat_reads_results_and_frames(system: Ours, tmp_path: Path) -> None:
    kcat = shutil.which("kcat")
    assert kcat is not None
    clip = tmp_path / "clip.mp4"
    make_clip("ibbp", clip)
    system.ingest("gate", clip)
    system.balanced("gate")

    def read(topic: str, form: str) -> list[str]:
        command = [kcat, "-b", system.bootstrap, "-C", "-q", "-e", "-t", system.prefix + topic, "-f", form + "\n"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()

    results = read("results", "%k %s")
    assert len(results) == FRAMES and all(line.startswith('gate {"schema":1,"source_id":"gate"') for line in results)
    frames = read("frames", "%k %S %h")
    assert len(frames) == FRAMES
    seqs = []
    for line in frames:
        key, size, text = line.split(" ", 2)
        headers = dict(
            pair.split("=", 1) for pair in text.replace("ce_source=/", "ce_source=").split(",") if "=" in pair
        )
        assert key == "gate" and int(size) > 1000 and headers["time_base"] == "1/90000"
        assert abs(int(headers["pts_ns"]) - round(int(headers["pts"]) * 10**9 / 90_000)) <= 1
        seqs.append(int(headers["frame_seq"]))
    assert sorted(seqs) == list(range(FRAMES))
