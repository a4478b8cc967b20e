"""`lockstep up` as a process, with the real sync_code graph and a small model under the name of the other one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import psutil
from triton_support import publish, redness_model

from models.importers.sync_code import graph
from serving.testing.sync_code import read_own

LOCKSTEP = "import sys; from serving.cli import main; sys.argv[0] = 'lockstep'; main()"
SPEC: dict[str, Any] = {
    "task": "detection",
    "labels": ["square", *(f"bit_{n}" for n in range(15, -1, -1))],
    "outputs": ["boxes", "scores"],
    "preprocess": {
        "width": 320, "height": 240, "resize": "stretch", "kernel": "pil_bilinear", "colour": "rgb", "range": "unit",
    },
    "options": {
        "decode": "boxes_scores", "box_format": "xyxy", "box_frame": "pixels", "nms": "none", "max_detections": 17,
    },
    "thresholds": {"default": {"score_threshold": 0.5}},
    "batch": {"opt": 1, "max": 8},
}  # fmt: skip


class Up:
    """The command, started; `document` is what it printed once it was up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        publish(folder / "repository", "sync_code", graph().graph, dict(SPEC))
        redness_model(folder / "repository", "person_ssdlite")
        root = Path(__file__).resolve().parents[3]
        self.config = folder / "up.yaml"
        values = {
            "repository": str(folder / "repository"), "cache_dir": str(folder / "cache"),
            "mixed_dir": str(folder / "mixed"), "triton_home": str(root / ".triton/site/pytriton/tritonserver"),
        }  # fmt: skip
        self.config.write_text(json.dumps(values))
        command = [sys.executable, "-c", LOCKSTEP, "up", "--json", "--port", "0", "--data", str(folder / "data")]
        self._out, self.err = folder / "up.json", folder / "up.err"
        with self._out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [*command, "--config", str(self.config)], stdout=out, stderr=err, cwd=folder,
                env={**os.environ, "PYTHONPATH": str(root)}, start_new_session=True,
            )  # fmt: skip
        self.document = self.until(self._printed, 240)
        self.url: str = self.document["gateway"]
        self.children = psutil.Process(self.process.pid).children(recursive=True)

    def until(self, condition: Callable[[], Any], patience_s: float = 60) -> Any:
        """What the condition gives, once it gives something."""
        deadline = time.monotonic() + patience_s
        while not (found := condition()):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.2)
        return found

    def said(self) -> str:
        """Its own words, and the last ones of every role."""
        logs = sorted((self.folder / "data" / "logs").glob("*.log"))
        return self.err.read_text()[-2000:] + "".join(f"\n== {p.name}\n{p.read_text()[-600:]}" for p in logs)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=20) as answer:
            return json.load(answer)

    def lockstep(self, *arguments: str) -> tuple[int, str]:
        """Another command of the same system."""
        done = subprocess.run(
            [sys.executable, "-c", LOCKSTEP, *arguments], capture_output=True, text=True, timeout=240, check=False,
            cwd=self.folder, env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def pid(self, what: str) -> int:
        return next(int(row["pid"]) for row in self.document["services"] if row["what"] == what)

    def interrupt(self) -> float:
        """Ctrl-C; seconds until it was over."""
        self.children = psutil.Process(self.process.pid).children(recursive=True)
        began = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(30) == 0, self.said()
        return time.monotonic() - began

    def kill(self) -> None:
        if self.process.poll() is None:
            self.children = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            self.process.wait()
        for child in self.children:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue

    def _printed(self) -> Any:
        text = self._out.read_text()
        return json.loads(text) if text.endswith("}\n") else None


def numbers(address: str, count: int) -> list[int]:
    """What a PyAV reader of the mixed HLS reads from the pixels of `count` pictures; -1 where nothing is readable."""
    found: list[int] = []
    with av.open(address, timeout=30) as mixed:
        for frame in mixed.decode(video=0):
            own = read_own(frame.to_ndarray(format="rgb24"))
            found.append(own[1] if own else -1)
            if len(found) >= count:
                break
    return found
