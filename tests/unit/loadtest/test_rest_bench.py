"""The benchmark's pure parts: ratios, intervals, limits and reading a generator's report."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from loadtest import loops, overload, report, rest
from loadtest.rest import CORES, Case, Sample
from loadtest.statistics import interval


def case(rates: list[tuple[float, float]], foreign: float = 0.0) -> Case:
    samples = []
    for best, ours in rates:
        samples.append(Sample("best", best, 5.0))
        samples.append(Sample("lockstep", ours, 6.0, generator_cores=0.25 * CORES, foreign_cores=foreign))
    return Case("m", "640x480", 8, samples)


def test_the_limit_leaves_out_the_generators_cores() -> None:
    found = report.ratios(case([(200, 120), (100, 75), (100, 66)]), "lockstep", "best")
    assert found.median == pytest.approx(0.88)  # 66 of the 75 that three quarters of the cores leave of 100
    assert found.low <= found.median <= found.high and found.pairs == 3


def test_pairs_with_foreign_load_are_dropped() -> None:
    assert str(report.ratios(case([(100, 50)], foreign=0.25 * CORES), "lockstep", "best")).startswith("nan")


def test_every_arm_has_the_cores_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BEST on two processes would be no limit for a server that uses every core."""
    assert len(os.sched_getaffinity(0)) == CORES
    monkeypatch.setattr(rest, "CORES", 7)
    _, mosec, fastapi = rest._Servers("m", tmp_path, tmp_path, tmp_path).arms
    assert mosec.env["LOADTEST_WORKERS"] == "7"
    assert fastapi.command[fastapi.command.index("--workers") + 1] == "7"


def test_an_interval_of_one_value_is_that_value_and_of_none_an_error() -> None:
    assert str(interval([0.5])) == "0.50 [0.50, 0.50]"
    with pytest.raises(ValueError, match="at least one value"):
        interval([])


def test_a_finished_measurement_is_never_rewritten(tmp_path: Path) -> None:
    run = {"facts": {"date": "d"}, "rounds": 1, "seconds": 1.0, "cases": [case([(100, 50)])]}
    written = report.write(run, tmp_path, "rest-1")
    assert "| m 640x480 c8 | lockstep |" in written.read_text() and (tmp_path / "rest-1.png").stat().st_size > 1000
    with pytest.raises(FileExistsError, match="never rewritten"):
        report.write(run, tmp_path, "rest-1")


def overloaded(good: int, refused: int, errors: dict[str, int]) -> dict[str, object]:
    """A report as oha writes it with --stats-success-breakdown; percentiles of nothing are null."""
    codes = {"200": good, "429": refused}
    return {
        "summary": {"total": 2.0},
        "statusCodeDistribution": {code: count for code, count in codes.items() if count},
        "errorDistribution": errors,
        "latencyPercentiles": {"p50": 0.01, "p99": 0.9},
        "latencyPercentilesSuccessful": {"p50": 0.5, "p99": 0.9} if good else {"p50": None, "p99": None},
        "latencyPercentilesNotSuccessful": {"p50": 0.002, "p99": 0.03} if refused else {"p50": None, "p99": None},
    }


def test_goodput_counts_200_only_and_refusals_have_their_own_latency() -> None:
    found = overload.read(overloaded(60, 120, {"timeout": 20, "aborted due to deadline": 128}), 100)
    assert (found.goodput, found.refused_share, found.unanswered_share) == (30.0, 0.6, 0.1)
    assert (found.p50_ms, found.p99_ms, found.refused_p50_ms, found.refused_p99_ms) == (500.0, 900.0, 2.0, 30.0)
    calm = overload.read(overloaded(60, 0, {}), 50)
    head, _, first, second = overload.table([(1.0, [calm, calm]), (2.0, [found, calm])]).splitlines()
    assert head.count("|") == first.count("|") == second.count("|")
    assert first.startswith("| 1x (50/s) | 30.0 | 1.00 | 0% | 0% | 500 | 900 | - | - |")
    assert second.endswith("| 30% | 5% | 500 | 900 | 2 | 30 |")


def test_plain_averages_where_bilinear_would_skip_pixels() -> None:
    """At 1/16 OpenCV's bilinear sees two columns of sixteen; the served model, by Pillow's rule, sees them all."""
    stripes = np.zeros((64, 1024, 3), np.uint8)
    stripes[:, ::16] = 160
    rule = {"resize": "stretch", "width": 64, "height": 4, "kernel": "pil_bilinear"}
    plain, served = (loops.fit(stripes, rule, way) for way in (loops.cv2_resize, loops.spec_resize))
    assert abs(float(plain.mean()) - 10) <= 1 and abs(float(served.mean()) - 10) <= 1
