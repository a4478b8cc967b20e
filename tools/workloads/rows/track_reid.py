"""Tracking by appearance: one YAML finds people and says what each looks like; DeepSORT knows them again by it."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise

from tools.workloads.bench import Bench
from tools.workloads.row import Row, Shown
from tools.workloads.video import picture_at

MODEL, PARTS = "person_track_reid", ("person_ssdlite", "person_embedder")


def show(bench: Bench) -> Shown:
    """The mixed video at two places, and of the longest tracks from when to when and how often they came back."""
    mixed, results = bench.folder / "known_again.mp4", bench.folder / "known_again.jsonl"
    for path in (mixed, results):
        path.unlink(missing_ok=True)
    summary = bench.run_clip(
        "--model", MODEL, "--track", "deepsort", "--output", str(mixed), "--results", str(results)
    )  # fmt: skip
    lines = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
    seen: dict[int, list[int]] = defaultdict(list)
    for number, line in enumerate(lines):
        for row in line.get("detections", ()):
            if "track_id" in row:
                seen[row["track_id"]].append(number)
    at = [line["pts_ns"] / 1e9 for line in lines]
    answer = [
        {"track": track, "from": f"{at[numbers[0]]:.1f} s", "to": f"{at[numbers[-1]]:.1f} s", "frames": len(numbers),
         "came back": sum(b - a > 1 for a, b in pairwise(numbers))}
        for track, numbers in sorted(seen.items(), key=lambda item: -len(item[1]))[:8]
    ]  # fmt: skip
    figures = {
        "frames": f"{summary['sources'][0]['shown']} in {summary['seconds']:.1f} s",
        "tracks": str(len(seen)),
        **bench.score(PARTS[1]),
    }
    pictures = [(f"frame {number} of the mixed video", picture_at(mixed, number)) for number in (60, 120)]
    return Shown(pictures, figures, answer, (mixed, results))


ROW = Row(
    62, "Tracking by appearance", "people -> person -> look: the tracker is told what each box looks like (DeepSORT).",
    (*PARTS, MODEL), show,
)  # fmt: skip
