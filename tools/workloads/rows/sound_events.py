"""Sounds by name: made scenes at three signal-to-noise ratios, each event under its class's name."""

from __future__ import annotations

import cv2
import soundfile

from tools.workloads.bench import Bench
from tools.workloads.row import Row, Shown
from tools.workloads.rows.audio import drawn

MODEL = "sound_events"


def show(bench: Bench) -> Shown:
    """A scene at 20, 10 and 0 dB with its events, and what a second of sound costs."""
    pictures, answer, figures = [], [], {}
    for snr_db in (20, 10, 0):
        sound = sorted(bench.samples(MODEL).glob(f"*_{snr_db}db.wav"))[0]
        document, figures = bench.measured(MODEL, sound)
        samples, rate = soundfile.read(sound, dtype="float32")
        canvas = drawn(samples, rate, document["events"])
        at = canvas.shape[1] / (len(samples) / rate * 1e9)
        for event in document["events"]:
            place = (int(event["start_pts_ns"] * at) + 2, 14 + 15 * event["class_id"])
            cv2.putText(canvas, event["label"], place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (150, 30, 30), 1, cv2.LINE_AA)
            answer.append({"scene": sound.name, "label": event["label"], "score": event["score"],
                           "from": f"{event['start_pts_ns'] / 1e9:.2f} s",
                           "to": f"{event['end_pts_ns'] / 1e9:.2f} s"})  # fmt: skip
        pictures.append((f"{sound.name}: what {MODEL} hears", canvas))
        cost = float(figures[f"{MODEL}: CPU of a request"].split()[0]) / 1e3 / (len(samples) / rate)
        figures |= {"CPU of the sound's length": f"{cost:.2%} of a core"}
    return Shown(pictures, {**figures, **bench.score(MODEL)}, answer)


ROW = Row(
    72, "Sounds by name", "A small network trained here on made sounds and real speech; each class its own events.",
    (MODEL,), show,
)  # fmt: skip
