"""Single-object tracking: one pedestrian given by a box in the first picture, followed through the clip."""

from __future__ import annotations

import json

from tools.workloads.bench import Bench
from tools.workloads.row import Row, Shown
from tools.workloads.video import picture_at

MODEL = "siamfc"
TARGET = "488,202,524,308"  # of a person in the first picture


def show(bench: Bench) -> Shown:
    """The mixed video at three places, how long the target was followed, and its path."""
    mixed, results = bench.folder / "followed.mp4", bench.folder / "followed.jsonl"
    for path in (mixed, results):
        path.unlink(missing_ok=True)
    summary = bench.run_clip(
        "--model", MODEL, "--target", TARGET, "--output", str(mixed), "--results", str(results)
    )  # fmt: skip
    lines = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
    told = [(line["pts_ns"] / 1e9, line["targets"][0]) for line in lines if line.get("targets")]
    followed = sum(target["state"] == "tracking" for _, target in told)
    figures = {
        "frames": f"{summary['sources'][0]['shown']} in {summary['seconds']:.1f} s",
        "followed": f"{followed} of {len(told)}",
        "median score": f"{sorted(target['score'] for _, target in told)[len(told) // 2]:.2f}",
    }
    answer = [
        {"at": f"{at:.2f} s", "state": target["state"], "score": target["score"], "box": str(target["xyxy"])}
        for at, target in told[::20]
    ]
    pictures = [(f"frame {at} of the mixed video", picture_at(mixed, at)) for at in (5, 60, 120)]
    return Shown(pictures, figures, answer, (mixed, results))


ROW = Row(
    65, "Single-object tracking", "A pedestrian of OpenCV's vtest, given by a box in the first picture (SiamFC).",
    (MODEL,), show,
)  # fmt: skip
