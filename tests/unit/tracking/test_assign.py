"""The assignment of boxes to tracks, against scipy's."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from serving.tracking.table import assign


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "mostly zero"])
def test_the_total_is_the_greatest(kind: type[np.float32] | type[np.float64], sparse: bool) -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        shape = tuple(rng.integers(1, 40, 2))
        table = rng.random(shape).astype(kind)
        if sparse:
            table[rng.random(shape) < 0.8] = 0
        rows, columns = assign(table, 0.0)
        best = table[linear_sum_assignment(table, maximize=True)].sum(dtype=np.float64)
        assert table[rows, columns].sum(dtype=np.float64) == pytest.approx(best, abs=1e-6)
        assert len(rows) == min(shape) == len(set(columns.tolist())) and (np.diff(rows) > 0).all()


def test_pairs_below_the_least_are_left_out_and_what_is_no_number_is_an_error() -> None:
    rows, columns = assign(np.array([[0.9, 0.8], [0.7, 0.1]]), 0.75)
    assert (rows.tolist(), columns.tolist()) == ([0], [1]), "the greatest total first, what is too low after it"
    assert [len(found) for found in assign(np.zeros((0, 3)), 0.0)] == [0, 0]
    for wrong in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            assign(np.array([[0.5, wrong], [0.5, 0.5]]), 0.1)


def test_a_worker_s_first_tracked_frame_does_not_wait_for_an_import_that_takes_longer_than_its_start() -> None:
    code = "import sys; from serving.tracking import bytetrack, deepsort; sys.exit('scipy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
