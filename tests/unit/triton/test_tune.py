"""What `tune` tries and how it chooses."""

from __future__ import annotations

from typing import Any

import pytest

from serving.errors import EngineFailed
from serving.tune import Candidate, batch_candidates, choose, process_candidates, why
from serving.tuning import TuningRow


def row(**changes: Any) -> TuningRow:
    values = {
        "instances": 1,
        "threads": 1,
        "max_batch": 8,
        "clients": 8,
        "requests_per_s": 100,
        "p50_ms": 5,
        "p95_ms": 9,
    }
    return TuningRow(**(values | changes))


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 12])
def test_never_more_threads_than_cores(cores: int) -> None:
    candidates = process_candidates(cores, 8)
    assert len(set(candidates)) == len(candidates)
    assert Candidate(1, 1, 8) in candidates and Candidate(cores, 1, 8) in candidates
    assert Candidate(1, cores, 8) in candidates
    assert all(c.instances * c.threads <= cores for c in candidates)


def test_smaller_batches_are_tried_for_the_best() -> None:
    assert batch_candidates(row(instances=2, max_batch=8)) == [Candidate(2, 1, 1), Candidate(2, 1, 4)]
    assert batch_candidates(row(max_batch=2)) == [Candidate(1, 1, 1)]
    assert batch_candidates(row(max_batch=1)) == []


def test_throughput_decides_and_nearly_equal_ones_go_to_fewer_instances() -> None:
    rows = [row(requests_per_s=100), row(instances=2, requests_per_s=180), row(instances=4, requests_per_s=185)]
    best = choose(rows)
    assert best.instances == 2
    assert "97%" in why(best, rows)
    assert choose([row(p95_ms=9, max_batch=8), row(p95_ms=7, max_batch=4)]).max_batch == 4


def test_a_setting_with_errors_is_never_chosen() -> None:
    assert choose([row(requests_per_s=500, errors=1), row(requests_per_s=10)]).requests_per_s == 10
    with pytest.raises(EngineFailed, match="no setting"):
        choose([row(errors=3)])
