"""Clips, stub models and a short way to run them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.adapters.video import AddressSource, Mp4Writer, ReaderOptions
from serving.adapters.video.clips import ClipSpec, write_clip
from serving.errors import ServingError
from serving.frames import AlignedFrame
from serving.media import OutputStream, VideoSource
from serving.streams.drawing import Drawing
from serving.streams.run import RunSettings, run
from serving.streams.source_run import SourceJob
from serving.streams.summary import RunSummary
from serving.streams.worker import Infer, Pipeline
from serving.types import Detections, ImageSize, InferRequest, InferResponse, TaskResult

TB90 = Fraction(1, 90_000)


def box_of(level: float) -> list[float]:
    """Where the box of a picture of this grey level is."""
    return [level / 4, 10.0, level / 4 + 20, 40.0]


def level_model(requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
    """A stub detector: one box whose place is the picture's grey level, class 0."""
    answers: list[InferResponse | ServingError] = []
    for request in requests:
        assert request.frame is not None
        level = float(request.frame.mean())
        found = Detections(np.array([box_of(level)], np.float32), np.array([0.9], np.float32), np.zeros(1, np.int64))
        answers.append(InferResponse(found, ImageSize(request.frame.shape[1], request.frame.shape[0]), {"infer": 1.0}))
    return answers


def document(result: TaskResult) -> dict[str, Any]:
    assert isinstance(result, Detections)
    ids = result.tracker_id.tolist() if result.tracker_id is not None else [-1] * len(result)
    return {"detections": [{"xyxy": b, "track_id": t} for b, t in zip(result.xyxy.tolist(), ids, strict=True)]}


def pipeline(name: str = "level", infer: Infer = level_model, **more: Any) -> Pipeline:
    return Pipeline(name, 1, "detection", infer, document, **more)


def picture_level(number: int) -> int:
    return 20 + number * 5 % 220


def make_clip(path: Path, pts: list[int], spec: ClipSpec, size: tuple[int, int] = (96, 64)) -> Path:
    pictures = ((np.full((size[1], size[0], 3), picture_level(n), np.uint8), stamp) for n, stamp in enumerate(pts))
    write_clip(path, spec, pictures)
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "clip.mp4", pts: list[int] | None = None, spec: ClipSpec | None = None, **more: Any) -> Path:
        stamps = [3000 * n for n in range(40)] if pts is None else pts
        return make_clip(tmp_path / name, stamps, spec or ClipSpec("mp4", TB90), **more)

    return make


@dataclass
class Ran:
    """What a run gave."""

    summary: RunSummary
    lines: list[dict[str, Any]]
    shown: list[AlignedFrame]

    @property
    def source(self) -> Any:
        return self.summary.sources[0]


@dataclass
class Shown:
    frames: list[AlignedFrame] = field(default_factory=list)

    def write(self, shown: AlignedFrame) -> None:
        self.frames.append(shown)


def run_one(
    source: VideoSource | Path | str,
    pipelines: Sequence[Pipeline] = (),
    settings: RunSettings | None = None,
    output: Path | None = None,
    shown: Shown | None = None,
    **more: Any,
) -> Ran:
    """Run one source; its result lines and shown frames. shown: what another thread watches while it runs."""
    if isinstance(source, Path | str):
        source = AddressSource("s", str(source), ReaderOptions(read_timeout_s=2.0))
    results, shown = io.StringIO(), shown or Shown()
    path = output

    def writers(stream: OutputStream) -> list[Mp4Writer]:
        return [Mp4Writer(path, stream)] if path else []

    job = SourceJob(source, Drawing({}), writers, results=results, sinks=[shown], mixed=output is not None, **more)
    summary = run([job], pipelines or [pipeline()], settings)
    return Ran(summary, [json.loads(line) for line in results.getvalue().splitlines()], shown.frames)


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    import threading

    before = set(threading.enumerate())
    yield
    ours = ("ingest", "mix", "infer")
    left = [t.name for t in set(threading.enumerate()) - before if t.is_alive() and t.name.startswith(ours)]
    assert left == []
