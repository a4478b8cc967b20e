"""Multi-object tracking: a real clip through `lockstep run` with ids that last, and events of the tracks."""

from __future__ import annotations

import json
from collections import Counter

from tools.workloads.bench import Bench
from tools.workloads.row import Row, Shown
from tools.workloads.video import picture_at

MODEL, TRACKER = "person_ssdlite", "bytetrack"
RULES = "lines:\n  middle: [[384, 0], [384, 576]]\n"


def show(bench: Bench) -> Shown:
    """The mixed video's middle picture, the run's balance, and the events."""
    folder = bench.folder
    mixed, events, rules = (folder / name for name in ("tracked.mp4", "events.jsonl", "rules.yaml"))
    for path in (mixed, events):
        path.unlink(missing_ok=True)
    rules.write_text(RULES, "utf-8")
    summary = bench.run_clip(
        "--model", MODEL, "--track", TRACKER, "--output", str(mixed),
        "--events", str(events), "--event-rules", str(rules),
    )  # fmt: skip
    source = summary["sources"][0]
    balance = source["balances"][MODEL]
    told = [json.loads(line) for line in events.read_text("utf-8").splitlines()]
    kinds = Counter(event["event"] for event in told)
    figures = {
        "frames": f"{source['shown']} in {summary['seconds']:.1f} s",
        "balance": f"accepted {balance['accepted']} = results {balance['results']} + dropped {balance['dropped']}"
        f" + dead {balance['dead']}",
        "tracks": str(len({event["track_id"] for event in told})),
        **{f"events: {kind}": str(count) for kind, count in sorted(kinds.items())},
    }
    answer = [
        {"event": event["event"], "track": event["track_id"], "at": f"{event['pts_ns'] / 1e9:.2f} s",
         "": event.get("to", "")} for event in told[:10]
    ]  # fmt: skip
    pictures = [(f"frame {at} of the mixed video", picture_at(mixed, at)) for at in (60, 120)]
    return Shown(pictures, figures, answer, (mixed, events))


ROW = Row(
    60, "Tracking with events", "Pedestrians of OpenCV's vtest: ByteTrack on PTS, a line across the middle.",
    (MODEL,), show,
)  # fmt: skip
