"""The stranger that watches a source: counts, order and age from events and HLS; a defect in each must be told."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from loadtest_http import Quiet, serving

from loadtest import servers, stream_probe


def result(pts_ns: int | None, outcome: str = "result", epoch: int = 1, age_s: float = 0.5) -> dict[str, object]:
    captured = time.time_ns() - int(age_s * 1e9)
    return {"epoch": epoch, "pts_ns": pts_ns, "pipeline": "m", "outcome": outcome, "capture_ns": captured}


@contextmanager
def gateway(events: list[dict[str, object]], segments: list[list[tuple[int, int]]]) -> Iterator[str]:
    """Serves these events, and a playlist of these segments of (epoch, pts_ns)."""
    names = [f"segment-{number:05d}" for number in range(len(segments))]
    tables = {f"{name}.json": {"media_sequence": n, "frames": [{"key": {"epoch": e, "pts_ns": p}} for e, p in rows]}
              for n, (name, rows) in enumerate(zip(names, segments, strict=True))}  # fmt: skip
    body = "retry: 1000\n\n: idle\n\n" + "".join(f"event: x\ndata: {json.dumps(row)}\n\n" for row in events)
    playlist = "#EXTM3U\n" + "".join(f"#EXTINF:2.0,\n{name}.m4s\n" for name in names)

    class Handler(Quiet):
        def do_GET(self) -> None:
            last = self.path.split("?")[0].rsplit("/", 1)[-1]
            found = {"events": body, "index.m3u8": playlist, **{k: json.dumps(v) for k, v in tables.items()}}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(found[last].encode())

    with serving(Handler) as base:
        yield base


def test_events_and_pictures_are_counted_ordered_and_aged() -> None:
    events = [result(0), result(40), result(80, "dropped"), result(None, "dropped"), result(0, epoch=2)]
    with gateway(events, [[(1, 0), (1, 40)], [(2, 0)]]) as base:
        seen, shown = stream_probe.sse(base, "cam", 1), stream_probe.hls(base, "cam", 0.7)
    assert seen.good and seen.outcomes == {"result": 3, "dropped": 2} and (seen.twice, seen.out_of_order) == (0, 0)
    assert len(seen.ages) == 3 and all(0.5 <= age < 5 for age in seen.ages)
    assert shown.good and shown.outcomes == {"shown": 3}


@pytest.mark.parametrize(("rows", "twice", "out_of_order"), [([0, 40, 40], 1, 0), ([0, 80, 40], 0, 1)])
def test_a_key_twice_or_out_of_order_is_told(rows: list[int], twice: int, out_of_order: int) -> None:
    with gateway([result(pts) for pts in rows], [[(1, pts) for pts in rows]]) as base:
        found = [stream_probe.sse(base, "cam", 1), stream_probe.hls(base, "cam", 0.2)]
    for tally in found:
        assert (tally.twice, tally.out_of_order, tally.good) == (twice, out_of_order, False), tally.row()


def test_the_log_may_repeat_and_mix_but_not_be_silent() -> None:
    log = stream_probe.Tally("kafka", ordered=False)
    assert not log.good
    for pts in (40, 0, 0):
        stream_probe.from_document(log, result(pts), time.time())  # type: ignore[arg-type]
    assert log.good and (log.twice, log.out_of_order) == (1, 2)


def test_a_way_that_fails_is_one_row_and_exit_1() -> None:
    base = f"http://127.0.0.1:{servers.free_port()}"
    line = [sys.executable, "-m", "loadtest.stream_probe", base, "cam", "--seconds", "1", "--no-hls", "--json"]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    (row,) = [json.loads(text) for text in ended.stdout.splitlines()]
    assert ended.returncode == 1 and row["way"] == "events" and "ConnectError" in row["error"] and not ended.stderr


def test_it_is_a_stranger() -> None:
    tree = ast.parse(Path(stream_probe.__file__).read_text("utf-8"))
    names = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not {n for n in names if n.split(".")[0] in ("serving", "converters", "loadtest", "deploy", "evaluation")}
