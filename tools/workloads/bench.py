"""What a workload's row may use: the running server, our command, a model's samples, its score, a stopwatch."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import httpx2 as httpx
import numpy as np
import psutil

from loadtest.facts import tree_cpu_s
from models.importers import import_model
from serving.bundle import catalogue, read_certificate
from serving.config import Settings, as_environment, child_environment
from serving.types import Detections, PixelArray
from tools.serve import LOCKSTEP, ROOT

TIMES = 12  # requests one after the other: a figure to look at, not one to quote
KINDS = {".jpg": "image/jpeg", ".png": "image/png", ".wav": "audio/wav"}
CLIP = ROOT / "models" / "samples" / "pedestrians.mp4"


class AskedInVain(RuntimeError):
    """A request or a command of a row did not succeed: what was asked, and what came."""


@dataclass(frozen=True, slots=True)
class Bench:
    """http: a client of the running gateway. server_pid: of `lockstep serve`. folder: for a row's own files."""

    http: httpx.Client
    server_pid: int
    settings: Settings
    folder: Path

    def samples(self, model: str) -> Path:
        """The folder of the real samples that came with a shipped model's weights."""
        return import_model(model, self.settings.cache_dir, lambda text: None).samples

    def call(self, method: str, path: str, **given: Any) -> Any:
        """A request that must succeed; the answer's JSON, None where it has no body."""
        reply = self.http.request(method, path, **given)
        if reply.status_code >= 400:
            raise AskedInVain(f"{method} {path}: {reply.status_code} {reply.text[:300]}")
        return reply.json() if reply.content else None

    def ask(self, model: str, file: Path, **query: Any) -> dict[str, Any]:
        """POST the file's bytes as they are to the model's `infer` route."""
        answer: dict[str, Any] = self.post(f"/v1/models/{model}/infer", file, **query)
        return answer

    def post(self, path: str, file: Path, **query: Any) -> Any:
        """POST the file's bytes as they are."""
        kind = {"content-type": KINDS[file.suffix]}
        return self.call("POST", path, content=file.read_bytes(), headers=kind, params=query)

    def measured(self, model: str, file: Path, **query: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """The answer, and figures of TIMES requests: median time, CPU of gateway and Triton together."""
        answer = self.ask(model, file, **query)
        process = psutil.Process(self.server_pid)
        before, took = tree_cpu_s(process), []
        for _ in range(TIMES):
            began = time.perf_counter()
            self.ask(model, file, **query)
            took.append(time.perf_counter() - began)
        cpu_ms = (tree_cpu_s(process) - before) / TIMES * 1e3
        return answer, {
            f"{model}: a request": f"{np.median(took) * 1e3:.1f} ms",
            f"{model}: CPU of a request": f"{cpu_ms:.0f} ms",
        }

    def score(self, model: str) -> dict[str, str]:
        """The score that the served engine was certified with on the model's labelled samples; nothing where none."""
        bundle = catalogue(self.settings.repository)[0][model]
        for row in read_certificate(bundle.version_dir)[0]["rows"]:
            if row["stage"] == "expected_score" and "served" in row["figures"]:
                metric, floor = next(iter(row["gate"].items()))
                told = f"{row['figures']['served']:.3f} on {row['samples']} samples (at least {floor})"
                return {f"{model}: {metric}": told}
        return {}

    def lockstep(self, *arguments: str) -> str:
        """Run a command of ours as a user would type it, with this run's settings; what it prints."""
        shown = " ".join(arguments)
        print(f"  $ lockstep {shown}", flush=True)
        done = subprocess.run(
            [LOCKSTEP, *arguments], cwd=ROOT, check=False, capture_output=True, text=True,
            env=child_environment(**as_environment(self.settings)),
        )  # fmt: skip
        if done.returncode:
            raise AskedInVain(f"lockstep {shown}: exit {done.returncode}: {done.stderr.strip()[-300:]}")
        return done.stdout

    def run_clip(self, *arguments: str) -> dict[str, Any]:
        """`lockstep run CLIP ... --json`: its summary."""
        summary: dict[str, Any] = json.loads(self.lockstep("run", str(CLIP), *arguments, "--json"))
        return summary


def read_rgb(file: Path) -> PixelArray:
    """A picture file as RGB uint8 [h, w, 3]."""
    found = cv2.imread(str(file))
    if found is None:
        raise AskedInVain(f"{file}: no picture")
    return np.asarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGB), np.uint8)


def boxes_of(rows: list[dict[str, Any]]) -> Detections:
    """The rows of a detection answer as boxes to draw."""
    return Detections(
        np.array([row["xyxy"] for row in rows], np.float32).reshape(-1, 4),
        np.array([row["confidence"] for row in rows], np.float32),
        np.array([row["class_id"] for row in rows], np.int64),
    )


def scaled(rgb: PixelArray, side: int) -> PixelArray:
    """A copy whose longer side has `side` pixels; small pictures are enlarged without smoothing."""
    scale = side / max(rgb.shape[:2])
    kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return np.array(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=kernel), np.uint8)
