"""Detection: SSD, YOLO with a grid, YOLO without anchors, and faces with landmarks, each on a real picture."""

from __future__ import annotations

from serving.draw import annotate
from tools.workloads.bench import Bench, boxes_of, read_rgb
from tools.workloads.row import Row, Shown

LAYOUTS = {
    "person_ssdlite": "SSD layout",
    "face_yolo": "YOLO with a grid and anchors",
    "digit_yolo": "YOLO without anchors",
}


def show(bench: Bench) -> Shown:
    """One picture a detector with its boxes, one after the other."""
    pictures, answer = [], []
    figures: dict[str, str] = {}
    for model, layout in LAYOUTS.items():
        picture = next(p for p in sorted(bench.samples(model).iterdir()) if p.name in PICTURES or p.name[:5] == "scene")
        document, cost = bench.measured(model, picture)
        rows = document["detections"]
        labels = [row["label"] for row in rows]
        pictures.append(
            (f"{model} ({layout}): {picture.name}", annotate(read_rgb(picture), boxes_of(rows), called=labels))
        )
        answer += [
            {"model": model, "label": row["label"], "confidence": row["confidence"],
             "xyxy": [round(v) for v in row["xyxy"]]} for row in rows[:5]
        ]  # fmt: skip
        figures |= {**cost, **bench.score(model)}
    return Shown(pictures, figures, answer)


PICTURES = ("frame_100.jpg", "sample1.jpg")
ROW = Row(
    30, "Detection", "Boxes of people, faces and digits; suppression outside the graph, boxes in source pixels.",
    tuple(LAYOUTS), show,
)  # fmt: skip
