"""examples/: programs of strangers, run as they stand, that read and write our topics by docs/kafka.md alone."""

from __future__ import annotations

import ast
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest
from strangers_support import EXAMPLES, Ours, ours, stranger

from serving.testing.sync_foreign import check_mixed, make_clip

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
    again = stranger("ingest/ingest.py", system.bootstrap, "their-cam", "code", clip, system.prefix)
    assert "their-cam epoch 2" in again, "an epoch is claimed once"


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
