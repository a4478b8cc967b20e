"""The Kafka benchmark's arithmetic, that its report is written once, and that it imports nothing of ours."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadtest import kafka, kafka_report, kafka_system, kafka_times
from loadtest.kafka import Arm, Figures
from loadtest.stream import CORES, Limit
from loadtest.stream_loop import STAGES

HOPS = {"ingest": 8.0, "worker": 20.0, "mixer": 15.0, "accountant": 1.0, "broker": 6.0}


def figures() -> Figures:
    noisy = 0.5 * CORES
    each = dict.fromkeys(STAGES, 5.0)
    return Figures(
        [Arm(600, 20.0, HOPS, 0.0), Arm(600, 40.0, HOPS, noisy), Arm(600, 20.0, HOPS, 0.0)],
        [Arm(600, 15.0, {"run": 40.0}, 0.0), Arm(600, 15.0, {"run": 10.0}, 0.0), Arm(600, 15.0, {"run": 30.0}, 0.0)],
        [Limit(60.0, 25.0, each, each, 0.0)],
        [900.0],
        {"p50": 0.025, "p99": 0.1, "hop": 0.012},
        [6.0, 6.5, 7.9],
        [2.0],
    )


def test_the_ratio_is_of_cpu_and_leaves_noisy_rounds_out() -> None:
    found = figures()
    assert found.distributed[0].cpu_ms == 50.0 and found.distributed[0].rate == 30.0
    assert found.ratios() == [pytest.approx(0.8), pytest.approx(0.2), pytest.approx(0.6)]
    assert found.quiet() == [pytest.approx(0.8), pytest.approx(0.6)]


def test_the_report_has_table_plot_and_facts_and_is_never_rewritten(tmp_path: Path) -> None:
    job = kafka.Job(tmp_path, "person_ssdlite", tmp_path / "clip.mp4")
    run: dict[str, Any] = {"facts": {"date": "today", "cpu": "x"}, "job": kafka._shown(job), "fps": 10.0}
    run["figures"] = figures()
    target = kafka_report.write(run, tmp_path, "kafka-1")
    text = target.read_text()
    assert (
        "| distributed | 30.0 | 3.0 | 1.2 | 50.0 |" in text and "| `lockstep run` | 40.0 | 4.0 | 1.6 | 30.0 |" in text
    )
    assert f"| N_max (bare loop) | {CORES * 40:.1f} |" in text and "| broker | 6.00 |" in text and "2 of 3" in text
    assert "aim at p99: 212 ms" in text and "p50 25 ms, p99 100 ms | hop p99 12 ms" in text
    assert "median 6.5" in text and "--stub-frames 3000" in text and str(tmp_path) not in text
    assert json.loads((tmp_path / "kafka-1.json").read_text())["figures"]["stub_rates"] == [900.0]
    assert (tmp_path / "kafka-1.png").stat().st_size > 5000
    with pytest.raises(FileExistsError):
        kafka_report.write(run, tmp_path, "kafka-1")


def record(value: bytes, at_ms: int, **headers: int) -> SimpleNamespace:
    told = [(name, str(number).encode()) for name, number in headers.items()]
    return SimpleNamespace(value=value, timestamp=at_ms, headers=told)


def result(seq: int, at_ms: int, outcome: str = "result") -> SimpleNamespace:
    return record(json.dumps({"epoch": 1, "frame_seq": seq, "outcome": outcome}).encode(), at_ms)


def test_fresh_is_the_first_result_of_a_frame_that_was_written_later() -> None:
    times = kafka_times.Times()
    for seq, at_ms in ((0, 1000), (1, 2000), (2, 3000)):
        times.take("frames", record(b"picture", at_ms, epoch=1, frame_seq=seq), at_ms / 1e3 + 0.002)
    times.take("frames", record(b"", 2500, epoch=1, frame_seq=9), 2.502)  # dropped at ingest
    assert times.fresh_after(1.5) is None and times.ages(0, 9) == []
    times.take("results", result(0, 4000), 4.01)  # of a frame before
    times.take("results", result(1, 4100, "dropped"), 4.11)
    assert times.fresh_after(1.5) is None
    times.take("results", result(2, 5000), 5.01)
    times.take("results", result(2, 9000), 9.01)  # another worker's answer to the same
    assert times.fresh_after(1.5) == pytest.approx(3.5)
    assert times.ages(0, 9) == pytest.approx([3.0, 2.0]) and times.ages(2.5, 9) == pytest.approx([2.0])
    assert min(times.hops) == pytest.approx(0.002) and len(times.hops) == 8


def test_what_never_comes_ends_the_benchmark_with_its_name() -> None:
    with pytest.raises(RuntimeError, match="results of the stub: not within 0 s"):
        kafka_system.wait_for(lambda: False, "results of the stub", 0.01, 0.001)


@pytest.mark.parametrize("module", [kafka, kafka_report, kafka_system, kafka_times])
def test_nothing_of_ours_is_imported(module: Any) -> None:
    for node in ast.walk(ast.parse(Path(module.__file__).read_text("utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not [n for n in names if n.split(".")[0] in ("serving", "converters", "models", "deploy")], names
