"""The Kafka benchmark's arithmetic, that its report is written once, and that it imports nothing of ours."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from loadtest import kafka, kafka_report, kafka_system
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
        {"p50": 0.025, "p99": 0.1},
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
    assert "median 6.5" in text and "--stub-frames 3000" in text and str(tmp_path) not in text
    assert json.loads((tmp_path / "kafka-1.json").read_text())["figures"]["stub_rates"] == [900.0]
    assert (tmp_path / "kafka-1.png").stat().st_size > 5000
    with pytest.raises(FileExistsError):
        kafka_report.write(run, tmp_path, "kafka-1")


def test_a_quantile_is_the_bucket_that_holds_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    samples = [
        (f'x_bucket{{le="{bound}",source="a"}}', float(count))
        for bound, count in (("0.1", 50), ("0.5", 99), ("+Inf", 100))
    ]
    monkeypatch.setattr(kafka_system.System, "_samples", lambda self, name: samples)
    system = kafka_system.System(tmp_path, tmp_path)
    assert [system.quantile("w", "x_bucket", share) for share in (0.5, 0.99, 0.999)] == [0.1, 0.5, float("inf")]
    assert system.metric("w", "x_bucket") == 249 and str(system.quantile("w", "y", 0.5)) == "nan"


def test_what_never_comes_ends_the_benchmark_with_its_name() -> None:
    with pytest.raises(RuntimeError, match="results of the stub: not within 0 s"):
        kafka_system.wait_for(lambda: False, "results of the stub", 0.01, 0.001)


@pytest.mark.parametrize("module", [kafka, kafka_report, kafka_system])
def test_nothing_of_ours_is_imported(module: Any) -> None:
    for node in ast.walk(ast.parse(Path(module.__file__).read_text("utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not [n for n in names if n.split(".")[0] in ("serving", "converters", "models", "deploy")], names
