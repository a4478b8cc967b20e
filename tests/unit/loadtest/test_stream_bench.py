"""The stream benchmark's arithmetic, its parity gate, its clips, and that a report is written once."""

from __future__ import annotations

import ast
import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from loadtest import stream, stream_report, stream_run, stream_tracker
from loadtest.stream import CORES, Held, Limit, StreamCase
from loadtest.stream_clips import crop_to, read_pictures, write_clip
from loadtest.stream_loop import STAGES, Costs
from serving.testing import align_bench

ROOT = Path(__file__).resolve().parents[3]


def block(frames: int, wall_s: float, stage_s: float, analysed: int) -> dict[str, Any]:
    calls = {stage: analysed if stage in ("infer", "track") else frames for stage in STAGES}
    return {"frames": frames, "wall_s": wall_s, "stages": dict.fromkeys(STAGES, stage_s), "calls": calls}


def limit(cpu_ms: float, rate: float = 50.0, foreign: float = 0.0) -> Limit:
    each = dict.fromkeys(STAGES, cpu_ms / len(STAGES))
    return Limit(rate, cpu_ms, each, each, foreign)


def case(limits: list[Limit], ours: list[Held]) -> StreamCase:
    return StreamCase("768x576", 5, 10.0, 4, 60, 2.0, limits, ours)


def test_a_limit_is_the_sum_of_the_stages_over_the_frames_of_all_processes() -> None:
    found = stream.limit_of([block(100, 2.0, 0.2, 20), block(60, 2.5, 0.12, 12)], 0.05)
    assert found.rate == pytest.approx(160 / 2.5)
    assert found.cpu_ms == pytest.approx(5 * 0.32 * 1e3 / 160)
    assert found.stage_ms["infer"] == pytest.approx(0.32 * 1e3 / 160)
    assert found.per_call_ms["infer"] == pytest.approx(0.32 * 1e3 / 32), "a call of inference costs k times its share"
    assert found.most(2) == pytest.approx(2e3 / found.cpu_ms)


def test_what_others_took_while_ours_ran_is_taken_off_the_limit() -> None:
    taken = 0.05 * CORES
    quiet = stream.shares(case([limit(20.0)], [Held(40.0, 22.0, 400.0, 0.0)]))
    shared = stream.shares(case([limit(20.0)], [Held(40.0, 22.0, 400.0, taken)]))
    assert quiet == [pytest.approx(40 / (CORES * 50))]
    assert shared == [pytest.approx(quiet[0] / 0.95)]


@pytest.mark.parametrize(("during_ours", "during_bare"), [(0.2, 0.0), (0.0, 0.2)])
def test_a_round_in_which_others_were_busy_is_left_out(during_ours: float, during_bare: float) -> None:
    noisy = case(
        [limit(20.0), limit(20.0, foreign=during_bare * CORES)],
        [Held(40.0, 22.0, 400.0, 0.0), Held(10.0, 22.0, 400.0, during_ours * CORES)],
    )
    assert len(stream.shares(noisy)) == len(stream.against_loop(noisy)) == 1
    assert "1 of 2" in stream_report.table({"cases": [noisy]})


def test_streams_held_is_frames_a_second_over_the_clips_rate() -> None:
    row = stream_report.table({"cases": [case([limit(20.0)], [Held(40.0, 22.0, 400.0, 0.0)])]}).splitlines()[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:5] == ["768x576 at 10/s", "5", "40.0", "4.0", "1.6"]
    assert cells[5] == f"{CORES * 50 / 10:.1f}"


@pytest.mark.parametrize(("rate", "every", "expected"), [(60.0, 1, 60), (133.0, 5, 135), (0.1, 5, 10)])
def test_a_clip_is_as_long_as_a_block_and_a_multiple_of_k(rate: float, every: int, expected: int) -> None:
    assert stream.frames_for(rate, 4.0, 4, every) == expected


def test_costs_are_charged_to_the_stage_that_spent_them() -> None:
    costs = Costs()
    costs.start()
    sum(range(300_000))
    costs.charge("infer")
    costs.charge("emit", 0)
    assert costs.cpu_s["infer"] > 10 * costs.cpu_s["emit"] and costs.cpu_s["decode"] == 0
    assert costs.calls["infer"] == 1 and costs.calls["emit"] == 0


def test_the_gate_tells_two_jobs_apart() -> None:
    frames = [[0.9, 0.7, 0.36], [0.8], []] * 4
    assert stream_run.agree(frames, [[0.36, 0.71, 0.9, 0.31], [0.79], [0.32]] * 4), "order and weak boxes do not count"
    assert not stream_run.agree(frames, [[0.9, 0.7], [0.8], []] * 4), "a box is missing"
    assert not stream_run.agree(frames, [[0.9, 0.6, 0.36], [0.8], []] * 4), "another confidence"
    assert not stream_run.agree(frames, frames[:-1]) and not stream_run.agree([], [])


def summary(**changes: Any) -> dict[str, Any]:
    balance = {"accepted": 60, "reasons": {"not_sampled": 48}}
    source = {"source_id": "cam1", "ok": True, "shown": 60, "mismatched": 0, "balances": {"person": balance}}
    return {"sources": [source, {**source, **changes}]}


def test_a_run_counts_only_when_nothing_was_lost() -> None:
    assert stream_run.check(summary()) == 120
    lost = {"person": {"accepted": 60, "reasons": {"not_sampled": 47, "overload": 1}}}
    for wrong in ({"ok": False}, {"shown": 59}, {"mismatched": 1}, {"balances": lost}):
        with pytest.raises(RuntimeError, match="cam1"):
            stream_run.check(summary(**wrong))


def test_results_are_read_from_analysed_frames_only(tmp_path: Path) -> None:
    rows = [
        {"outcome": "result", "detections": [{"confidence": 0.9}]},
        {"outcome": "dropped", "detections": []},
        {"outcome": "result", "detections": []},
    ]
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert stream_run.found(path, 2) == [[0.9], []]


def test_a_failed_run_says_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no such model"):
        stream_run.serve([sys.executable, "-c", "raise SystemExit('no such model')"], tmp_path / "log")


def test_the_command_names_every_copy_of_the_clip(tmp_path: Path) -> None:
    line = stream_run.command(Path("a.mp4"), 3, "person_ssdlite", 5, tmp_path, Path("repo"))
    assert line[2:5] == ["cam1=a.mp4", "cam2=a.mp4", "cam3=a.mp4"]
    assert line[line.index("--every") + 1] == "5" and "--json" in line


def test_a_clip_has_b_frames_the_size_and_the_rate(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    pictures = [np.asarray(rng.integers(0, 255, (576, 768, 3)), np.uint8) for _ in range(3)]
    clip = write_clip(tmp_path / "clip.mp4", pictures, "720p", 7, Fraction(10))
    with av.open(str(clip.path)) as container:
        kinds = [PictureType(frame.pict_type).name for frame in container.decode(video=0)]
    assert len(kinds) == clip.frames == 7 and kinds[1:3] == ["B", "B"]
    read, rate = read_pictures(clip.path)
    assert read[0].shape == (720, 1280, 3) and rate == 10
    with pytest.raises(ValueError, match="frames >= 1"):
        write_clip(tmp_path / "none.mp4", pictures, "720p", 0, Fraction(10))


def test_a_crop_keeps_the_shape_of_things() -> None:
    rgb = np.zeros((576, 768, 3), np.uint8)
    rgb[238:338, 334:434] = 255  # a square in the middle
    out = crop_to(rgb, 1280, 720)
    bright = np.argwhere(out[:, :, 0] > 127)
    tall, wide = bright.max(0) - bright.min(0)
    assert out.shape == (720, 1280, 3) and abs(int(tall) - int(wide)) <= 2
    assert crop_to(rgb, 768, 576) is not rgb and np.array_equal(crop_to(rgb, 768, 576), rgb)


def test_the_trackers_scene_is_tracked_so_that_its_cost_means_something() -> None:
    tracker, confidence = stream_tracker.new_tracker(), np.full(5, 0.9, np.float32)
    ids: list[int] = []
    for number, boxes in enumerate(stream_tracker.scene(5, 12)):
        ids = stream_tracker.tracked(tracker, boxes, confidence, np.zeros(5, np.int64), number / 25)
    assert len(set(ids)) == 5 and min(ids) >= 0


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("every", [1, 5])
def test_the_core_shows_every_frame_with_its_boxes_within_the_bound(live: bool, every: int) -> None:
    row = align_bench.measure(200, 20, every, live)
    assert abs(row["shown"] - 200) <= every and 0 < row["most_held"] <= row["bound"]
    assert all(us > 0 for us in row["us_per_frame"].values())
    source, boxes = align_bench.Stream("s", live, every), align_bench.scene(20)
    shown = []
    for number in range(60):
        records = source.ingest()
        shown += source.mix(records, source.answers(records, *boxes[number]))
    assert len(shown) >= 50 and all(len(overlay.boxes) == 20 for one in shown[15:] for overlay in one.overlays)
    assert source.mixer.counters.mismatched == source.mixer.counters.unjoined == 0


def test_memory_of_a_stream_does_not_grow_with_its_length() -> None:
    short, long = (align_bench.stream_bytes(5, 5, True, 1, frames) for frames in (70 * 25, 140 * 25))
    assert 0 < long < 1.3 * short


def report() -> dict[str, Any]:
    core = {
        "live": True, "every": 1, "tracks": 20, "core_frames_per_s": 1e4, "bytes_per_stream": 2e5, "most_held": 8,
        "bound": 61, "us_per_frame": {"mixer": 40.0, "timeline": 20.0, "accountant": 12.0},
    }  # fmt: skip
    return {
        "facts": {"date": "2026-01-02", "cores used": CORES},
        "job": {"model": "person_ssdlite", "streams": 4, "rounds": 2, "seconds": 3.5},
        "cases": [case([limit(20.0), limit(21.0)], [Held(40.0, 22.0, 400.0, 0.0), Held(41.0, 22.0, 400.0, 0.0)])],
        "core": [core],
        "tracker_ms": {5: 0.3, 20: 0.8, 50: 1.5},
    }


def test_a_report_is_written_once(tmp_path: Path) -> None:
    target = stream_report.write(report(), tmp_path, "stream-x")
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".json", ".png"}
    written = target.read_text()
    for part in ("768x576 at 10/s", "| 50 | 1.50 |", "| live | 1 | 20 | 40.0 |", "--seconds 3.5", "stream-x.png"):
        assert part in written
    assert len(json.loads((tmp_path / "stream-x.json").read_text())["cases"][0]["shares"]) == 2
    target.unlink()
    with pytest.raises(FileExistsError, match="never rewritten"):
        stream_report.write(report(), tmp_path, "stream-x")


def test_the_load_test_imports_nothing_of_ours() -> None:
    for path in (ROOT / "loadtest").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] in ("serving", "converters", "models")], path
