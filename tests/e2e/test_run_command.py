"""`lockstep run` as a user types it: exit status, JSON, files, and Ctrl-C in the middle of a live source."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from triton_support import redness_model

from serving.adapters.video.clips import ClipSpec, write_clip
from serving.free_ports import UDP, free_port

ROOT = Path(__file__).resolve().parents[2]
# A shell that starts the tests in the background ignores SIGINT, and children inherit that.
LOCKSTEP = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from serving.cli import main; main()"
)
MAIN = [sys.executable, "-c", LOCKSTEP, "run"]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    redness_model(tmp_path / "repository")
    pictures = ((np.full((64, 96, 3), (40 + 5 * n, 20, 20), np.uint8), 3000 * n) for n in range(30))
    write_clip(tmp_path / "clip.mp4", ClipSpec("mp4", Fraction(1, 90_000)), pictures)
    return tmp_path / "clip.mp4"


def command(folder: Path, *arguments: str) -> list[str]:
    return [*MAIN, *arguments, "--model", "redness", "--repository", str(folder / "repository")]


def lockstep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_file_to_mixed_video_and_results(clip: Path, tmp_path: Path) -> None:
    wanted = ["--output", str(tmp_path / "o.mp4"), "--results", str(tmp_path / "r.jsonl"), "--json", "--every", "3"]
    done = lockstep(tmp_path, str(clip), *wanted)
    assert done.returncode == 0, done.stderr
    source = json.loads(done.stdout)["sources"][0]
    assert source["balanced"] and source["balances"]["redness"]["results"] == 10
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 30 and (tmp_path / "o.mp4").stat().st_size > 500


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["nothing.mp4"], 1, "source_not_found"),
        (["gopher://x/y"], 1, "source_refused"),
        (["clip.mp4", "--track", "nearest"], 1, "expected one of bytetrack"),
        (["clip.mp4", "--roi", "1,2"], 1, "expected x1,y1,x2,y2"),
        (["clip.mp4", "--output", "/nowhere/at/all/o.mp4"], 1, "storage_failed"),
        (["clip.mp4", "--every", "0"], 2, "every"),
    ],
)
def test_what_is_wrong_is_one_line(clip: Path, tmp_path: Path, arguments: list[str], status: int, says: str) -> None:
    given = [str(clip) if a == "clip.mp4" else a for a in arguments]
    done = lockstep(tmp_path, *given)
    assert done.returncode == status
    assert says in done.stdout + done.stderr and "Traceback" not in done.stderr


@pytest.mark.needs("ffmpeg")
def test_ctrl_c_closes_the_outputs(clip: Path, tmp_path: Path) -> None:
    address = f"udp://127.0.0.1:{free_port(UDP)}"
    send = ["ffmpeg", "-v", "error", "-re", "-stream_loop", "-1", "-i", str(clip), "-c:v", "libx264", "-g", "10"]
    sender = subprocess.Popen([*send, "-f", "mpegts", f"{address}?pkt_size=1316"], stdin=subprocess.DEVNULL)
    wanted = ["--output", str(tmp_path / "o.mp4"), "--results", str(tmp_path / "r.jsonl")]
    running = subprocess.Popen(
        command(tmp_path, f"cam={address}", *wanted),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 60
        while not (tmp_path / ".o.mp4.part").exists() and time.monotonic() < until:
            time.sleep(0.1)  # the mixed video is begun at the first shown picture
        time.sleep(3)
        os.kill(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=30)
    finally:
        for process in (running, sender):
            process.kill()
            process.wait()
    assert running.returncode == 0, err
    assert "balanced" in out and "NOT BALANCED" not in out
    assert (tmp_path / "o.mp4").stat().st_size > 500 and len((tmp_path / "r.jsonl").read_text().splitlines()) > 20
