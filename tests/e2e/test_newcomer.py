"""A newcomer with the README alone: its own blocks, on a seeded ResNet-18 for 192x160 grey pictures made here."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.e2e.blocks import blocks_of

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
pytestmark = [pytest.mark.needs("torch", "triton"), pytest.mark.timeout(280)]


def sh(command: str, cwd: Path) -> str:
    """A line as the reader types it, with the venv's commands on PATH."""
    env = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(cwd), "LOCKSTEP_TRITON_HOME": str(triton_home())}
    done = subprocess.run(
        command, shell=True, cwd=cwd, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def triton_home() -> Path:
    return ROOT / ".triton" / "site" / "pytriton" / "tritonserver"


@contextmanager
def server(command: str, cwd: Path) -> Iterator[str]:
    env = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(cwd), "LOCKSTEP_TRITON_HOME": str(triton_home())}
    process = subprocess.Popen(shlex.split(command), cwd=cwd, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = next((line for line in process.stdout if "http://" in line), "")
        address = re.search(r"http://\S+", line)
        assert address, f"`{command}` printed no address"
        yield address.group()
    finally:
        process.terminate()
        assert process.wait(60) == 0, "Ctrl-C or SIGTERM ends the server cleanly"
        if process.stdout is not None:
            process.stdout.close()


def make_checkpoint_and_samples(folder: Path) -> None:
    """What a reader brings: a trained state dict, and pictures."""
    program = (
        "import torch; from parts_net import build; torch.manual_seed(0); model = build(3).eval();"
        "torch.save(model.state_dict(), 'parts.pth')"
    )
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True, timeout=120)
    rng = np.random.default_rng(3)
    (folder / "samples").mkdir()
    for i in range(8):
        picture = cv2.resize(
            rng.integers(0, 255, (12, 16, 3), np.uint8), (320 + 16 * i, 240), interpolation=cv2.INTER_CUBIC
        )
        cv2.imwrite(str(folder / "samples" / f"{i}.jpg"), picture)


def test_the_readmes_own_blocks_take_a_checkpoint_to_an_answer(tmp_path: Path) -> None:
    blocks = blocks_of(ROOT / "README.md")
    for name, body in blocks.items():
        if "/" in name:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(body)
    make_checkpoint_and_samples(tmp_path / "my_models")
    for line in blocks["shell"].strip().splitlines():
        printed = sh(line, tmp_path)
    assert "parts" in printed, "`lockstep models` lists the published model"
    picture = tmp_path / "picture.jpg"
    picture.write_bytes((tmp_path / "my_models" / "samples" / "3.jpg").read_bytes())
    serve = blocks["serve"].strip().replace("--port 8080", "--port 0")
    with server(serve, tmp_path) as base:
        answer = json.loads(sh(blocks["ask"].strip().replace("http://127.0.0.1:8080", base), tmp_path))
    alone = json.loads(sh("lockstep infer parts picture.jpg -p top_k=2 --json", tmp_path))
    assert len(answer["classes"]) == 2 and {row["label"] for row in answer["classes"]} <= {"bolt", "nut", "washer"}
    assert {**answer, "timings_ms": None} == {**alone, "timings_ms": None}, "curl and `lockstep infer` agree"
    assert answer["image"] == {"width": 368, "height": 240}
