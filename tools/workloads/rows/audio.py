"""Audio: when somebody speaks, in a real recording laid out with silence, drawn under its waveform."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import soundfile

from serving.types import PixelArray
from tools.workloads.bench import Bench
from tools.workloads.row import Row, Shown

MODEL, SCENE = "silero_vad", "scene_02.wav"


def show(bench: Bench) -> Shown:
    """One sound with its events, and what a second of sound costs."""
    sound = bench.samples(MODEL) / SCENE
    document, figures = bench.measured(MODEL, sound)
    events = document["events"]
    samples, rate = soundfile.read(sound, dtype="float32")
    cost = float(figures[f"{MODEL}: CPU of a request"].split()[0]) / 1e3 / (len(samples) / rate)
    figures |= {"sound": f"{len(samples) / rate:.1f} s", "CPU of the sound's length": f"{cost:.2%} of a core"}
    answer = [
        {"label": event["label"], "score": event["score"], "from": f"{event['start_pts_ns'] / 1e9:.2f} s",
         "to": f"{event['end_pts_ns'] / 1e9:.2f} s"} for event in events
    ]  # fmt: skip
    caption = f"{SCENE}: green where {MODEL} hears speech"
    return Shown([(caption, drawn(samples, rate, events))], {**figures, **bench.score(MODEL)}, answer)


def drawn(samples: np.ndarray, rate: int, events: list[dict[str, Any]]) -> PixelArray:
    """The waveform's envelope, 720 pixels wide, with events as bands."""
    canvas = np.full((180, 720, 3), 255, np.uint8)
    at = 720 / (len(samples) / rate * 1e9)
    for event in events:
        cv2.rectangle(
            canvas, (int(event["start_pts_ns"] * at), 0), (int(event["end_pts_ns"] * at), 179), (196, 234, 204), -1
        )
    loudest = max(float(np.abs(samples).max()), 1e-6)
    for x, part in enumerate(np.array_split(samples, 720)):
        low, high = (90 - 80 * float(v) / loudest for v in (part.max(), part.min()))
        cv2.line(canvas, (x, round(low)), (x, round(high)), (40, 60, 90), 1)
    return canvas


ROW = Row(
    70, "Audio recognition", "silero-vad, a network with state, over a whole file by REST; events with their times.",
    (MODEL,), show,
)  # fmt: skip
