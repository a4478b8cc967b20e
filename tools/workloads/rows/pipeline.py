"""Pipelines: several models for one answer by one YAML, here with its steps and their times."""

from __future__ import annotations

from serving.draw import annotate
from tools.workloads.bench import Bench, boxes_of, read_rgb
from tools.workloads.row import Row, Shown

PIPELINE = "face_identify"


def show(bench: Bench) -> Shown:
    """Every step of one request with its time; a picture without a face costs the first step alone."""
    samples = bench.samples("face_retina")
    pictures, answer = [], []
    for name in ("sample2.jpg", "chicky_512.png"):
        document = bench.ask(PIPELINE, samples / name)
        rows = document["detections"]
        called = [", ".join(row["chip"].get("problems", ())) or f"turn {row['chip']['turn']:.2f}" for row in rows]
        pictures.append(
            (f"{name}: {len(rows)} faces", annotate(read_rgb(samples / name), boxes_of(rows), called=called))
        )
        answer += [{"picture": name, "step": step, "ms": round(ms, 1)} for step, ms in document["timings_ms"].items()]
    return Shown(pictures, {}, answer)


ROW = Row(
    40, "Pipelines across models", "faces -> chip -> look -> identity: one YAML, the time of each step in the answer.",
    ("face_retina", "face_embedder", "face_identify"), show,
)  # fmt: skip
