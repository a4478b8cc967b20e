"""Finished stages are reused, unfinished and damaged ones are made again; progress says rate and time left."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.meter import Meter
from converters.work_folder import KEPT, WorkFolder


class Step:
    """Writes a file and counts how often."""

    def __init__(self, work: WorkFolder, fail: bool = False) -> None:
        self.work, self.fail, self.calls = work, fail, 0

    def __call__(self) -> Mapping[str, Any]:
        self.calls += 1
        (self.work.path / "out.bin").write_bytes(b"result")
        if self.fail:
            raise RuntimeError("cut off")
        return {"shape": (1, 2)}


def test_a_finished_stage_is_reused_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    work, lines = WorkFolder.of(tmp_path, "m", "a" * 64), []
    step = Step(work)
    first = work.stage("s", ["out.*"], step)
    assert work.stage("s", ["out.*"], step, lines.append) == first == {"shape": [1, 2]}
    assert step.calls == 1 and lines == ["s: reused from an earlier run"]
    (work.path / "out.bin").write_bytes(b"patched")
    work.stage("s", ["out.*"], step)
    (work.path / "out.bin").unlink()
    work.stage("s", ["out.*"], step)
    assert step.calls == 3


def test_a_stage_that_was_cut_off_is_made_again(tmp_path: Path) -> None:
    work = WorkFolder.of(tmp_path, "m", "a" * 64)
    with pytest.raises(RuntimeError, match="cut off"):
        work.stage("s", ["out.*"], Step(work, fail=True))
    step = Step(work)
    work.stage("s", ["out.*"], step)
    assert step.calls == 1


def test_only_the_last_few_folders_of_a_model_stay(tmp_path: Path) -> None:
    for index in range(KEPT + 2):
        path = WorkFolder.of(tmp_path, "m", f"{index:064d}"[::-1]).path
        os.utime(path, (index, index))
    other = WorkFolder.of(tmp_path, "other", "b" * 64).path
    assert other.is_dir() and path.is_dir()
    assert len(list(path.parent.iterdir())) == KEPT


def test_progress_says_rate_and_time_left_once_a_second() -> None:
    now, lines = [0.0], []
    meter = Meter(lines.append, "engine", 100, lambda: now[0])
    run = meter.counting(lambda inputs: inputs)
    for _ in range(10):
        now[0] += 0.5
        run({"x": np.zeros((5, 2))})
    assert lines[0] == "engine: 10/100, 10.0/s, 9 s left" and len(lines) == 5
    assert list(meter.over("ab")) == ["a", "b"]
