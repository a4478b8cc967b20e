"""What the workloads beside boxes cost, each against the bare loop of the same steps in the same run.

gallery: exact search among 10 000 vectors of 128 numbers. tracker: a frame with 50 objects. audio: a stream heard in
pieces of half a second, against the engine's own calls with the state carried by hand. face_identify: a whole photo,
against decoding, resizing and the two networks alone, on as many chips as faces were found. CPU milliseconds of this
process (all its threads); rounds of ours and bare take turns, and the median of the rounds counts. NumPy gets one
thread, as in a served model (serving/triton/home.py): more of them spin and cost more than they save here.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import soundfile
from threadpoolctl import threadpool_limits

from serving.backend import open_served
from serving.bundle import ModelBundle, newest_certified, read_pinned
from serving.config import Settings
from serving.engines import open_engine
from serving.gallery import View
from serving.ports import Engine, Tracker
from serving.sequences import WINDOW, first_state
from serving.served_model import ServedModel
from serving.tasks.audio import TASK as AUDIO
from serving.testing.tracker_bench import scene
from serving.trackers import TRACKERS
from serving.types import InferRequest, InferResponse

SAMPLES, NUMBERS, OBJECTS, PIECE_S = 10_000, 128, 50, 0.5
STEP_NS = 40_000_000


@dataclass(frozen=True, slots=True)
class Figure:
    """One row. ours, bare: CPU milliseconds of a `unit`; limit: what ours may cost at most, None: none is stated.

    bare is None where there is no bare loop of it.
    """

    workload: str
    unit: str
    ours: float
    bare: float | None
    limit: float | None

    def to_row(self) -> dict[str, Any]:
        """For a table or JSON."""
        ratio = round(self.ours / self.bare, 2) if self.bare else None
        verdict = "" if self.limit is None else "met" if self.ours <= self.limit else "missed"
        return {"workload": self.workload, "unit": self.unit, "ours CPU-ms": round(self.ours, 3),
                "bare CPU-ms": None if self.bare is None else round(self.bare, 3), "ours / bare": ratio,
                "at most": self.limit, "verdict": verdict}  # fmt: skip


def cpu_ms(work: Callable[[], Any], times: int) -> float:
    """CPU milliseconds of one call, this process's threads together."""
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) * 1e3 / times


def alternate(ours: Callable[[], Any], bare: Callable[[], Any] | None, times: int, rounds: int) -> tuple[float, Any]:
    """Medians of rounds that take turns; one call of each goes before and is not counted."""
    for work in filter(None, (ours, bare)):
        work()
    found = [(cpu_ms(ours, times), cpu_ms(bare, times) if bare else None) for _ in range(rounds)]
    return float(np.median([o for o, _ in found])), float(np.median([b for _, b in found])) if bare else None


def gallery(rounds: int) -> Figure:
    """Exact search, five nearest subjects."""
    rng = np.random.default_rng(3)
    base = rng.standard_normal((SAMPLES, NUMBERS)).astype(np.float32)
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    owner, none = np.arange(SAMPLES, dtype=np.int32), np.zeros((0, NUMBERS), np.float32)
    names = tuple(f"s{n}" for n in range(SAMPLES))
    view = View(base, none, owner, np.arange(SAMPLES), np.ones(SAMPLES, bool), names)
    query = base[17] + np.float32(0.1)

    def bare() -> Any:
        scores = base @ query
        return scores[np.argpartition(-scores, 5)[:5]]

    ours, other = alternate(lambda: view.search(query), bare, 50, rounds)
    return Figure(f"gallery {SAMPLES} x {NUMBERS}", "search", ours, other, 2.0)


def tracker(name: str, rounds: int, frames: int = 100) -> Figure:
    """A frame; no bare loop, the tracker is the step."""
    costs = []
    for _ in range(rounds):
        boxes, one = list(scene(OBJECTS, frames + 30)), TRACKERS[name]()
        _feed(one, boxes[:30], 0)
        costs.append(cpu_ms(partial(_feed, one, boxes[30:], 30), 1) / frames)
    return Figure(f"tracker {name}, {OBJECTS} objects", "frame", float(np.median(costs)), None,
                  1.0 if name == "bytetrack" else None)  # fmt: skip


def _feed(one: Tracker, boxes: Sequence[Any], first: int) -> None:
    for number, found in enumerate(boxes):
        one.update(found, (first + number) * STEP_NS)


def audio(settings: Settings, sound: Path, rounds: int, model: str = "silero_vad") -> Figure:
    """A second of a 16 kHz stream; 10 CPU-ms are 1 % of a core."""
    samples, rate = soundfile.read(sound, dtype="float32")
    with closing(open_served(newest_certified(settings.repository, model).version_dir, settings)) as served:
        spec = served.bundle.spec
        assert spec.sound is not None and isinstance(served, ServedModel)
        engine = served.engine
        rule, length = spec.sound, int(PIECE_S * rate)
        pieces = [_wav(samples[at : at + length], rate) for at in range(0, len(samples), length)]
        padded = np.concatenate([np.zeros(rule.context, np.float32), samples])
        windows = len(samples) // rule.window

        def ours() -> None:
            session = AUDIO.new_session(spec, {})
            for place, piece in enumerate(pieces):
                at = round(place * PIECE_S * 1e9)
                answer = session.ask(InferRequest(encoded=piece), served.infer, at)
                assert isinstance(answer, InferResponse), answer
                session.update(answer.result, at, np.zeros((0, 0, 3), np.uint8))

        def bare() -> None:
            state = first_state(rule, 1)
            for place in range(windows):
                start = place * rule.window
                window = padded[None, start : start + rule.context + rule.window]
                outputs = engine.run({WINDOW: window, **state})
                state = {kept.input: outputs[kept.output] for kept in rule.state}

        cost, other = alternate(ours, bare, 1, rounds)
    seconds = len(samples) / rate
    return Figure(f"{model} stream", "second of sound", cost / seconds, other / seconds, 10.0)


def _wav(samples: Any, rate: int) -> bytes:
    sink = io.BytesIO()
    soundfile.write(sink, samples, rate, format="WAV", subtype="PCM_16")
    return sink.getvalue()


def face_identify(settings: Settings, photo: Path, rounds: int, pipeline: str = "face_identify") -> list[Figure]:
    """A photo: the whole, then each step's own time (milliseconds, one thread)."""
    data = photo.read_bytes()
    version = newest_certified(settings.repository, pipeline).version_dir
    parts = {bundle.name: bundle for bundle in read_pinned(version)}
    with contextlib.ExitStack() as opened:
        served = opened.enter_context(closing(open_served(version, settings)))
        engines = [opened.enter_context(closing(_engine(parts[n]))) for n in ("face_retina", "face_embedder")]
        (first,) = served.infer([InferRequest(encoded=data)])
        assert isinstance(first, InferResponse), first
        faces = len(served.document(first)["detections"])
        detector, embedder = engines
        plane, chips = np.zeros((640, 640, 3), np.float32), np.zeros((max(1, faces), 3, 150, 150), np.float32)
        steps: list[dict[str, float]] = []

        def ours() -> None:
            (answer,) = served.infer([InferRequest(encoded=data)])
            assert isinstance(answer, InferResponse)
            steps.append(dict(answer.timings_ms))

        def bare() -> None:
            pixels = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)
            scale = 640 / max(pixels.shape[:2])
            small = cv2.resize(pixels, None, fx=scale, fy=scale)
            plane[: small.shape[0], : small.shape[1]] = small[:640, :640] - np.float32(110)
            detector.run({detector.info.inputs[0].name: np.ascontiguousarray(plane.transpose(2, 0, 1)[None])})
            for _ in range(faces):
                cv2.warpAffine(pixels, np.array([[0.2, 0, 0], [0, 0.2, 0]], np.float32), (150, 150))
            for chip in chips[:faces]:
                embedder.run({embedder.info.inputs[0].name: chip[None]})

        whole, other = alternate(ours, bare, 3, rounds)
        found = [Figure(f"{pipeline}, {faces} faces", "photo", whole, other, None)]
        for name in steps[0]:
            found.append(Figure(f"  {name}", "photo", float(np.median([s[name] for s in steps])), None, None))
    return found


def _engine(bundle: ModelBundle) -> Engine:
    return open_engine(str(bundle.engine), bundle.version_dir, bundle.threads, bundle.precision)


def measure(settings: Settings, sound: Path, photo: Path, rounds: int, say: Callable[[str], None]) -> list[Figure]:
    """Every row. Raises NotFound, CertificateRefused where a model is not converted."""
    with threadpool_limits(1, "blas"):
        return _rows(settings, sound, photo, rounds, say)


def _rows(settings: Settings, sound: Path, photo: Path, rounds: int, say: Callable[[str], None]) -> list[Figure]:
    say(f"bench: gallery, {rounds} rounds of each row")
    found = [gallery(rounds)]
    say("bench: trackers")
    found += [tracker(name, rounds) for name in sorted(TRACKERS)]
    say("bench: audio")
    found.append(audio(settings, sound, rounds))
    say("bench: face_identify")
    return found + face_identify(settings, photo, rounds)
