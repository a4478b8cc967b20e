"""Refusing before start what the machine cannot hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving.triton.memory import Available, MemoryTooSmall, ModelMemory, available, check_memory, peak_rss_bytes

MIB = 2**20


def test_the_sum_with_a_fifth_on_top_is_what_counts() -> None:
    models = [ModelMemory("big", 300 * MIB, 2), ModelMemory("small", 100 * MIB, 4)]
    check_memory(models, Available(1200 * MIB, "free memory"))
    with pytest.raises(MemoryTooSmall) as caught:
        check_memory(models, Available(1200 * MIB - 1, "cgroup limit"))
    text = str(caught.value)
    assert "1200 MiB" in text and "cgroup limit" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["big", "300", "2", "600"] in lines and any(line[:4] == ["small", "100", "4", "400"] for line in lines)


def test_a_model_that_was_never_measured_is_shown_as_unknown() -> None:
    with pytest.raises(MemoryTooSmall, match=r"new +unknown +1"):
        check_memory([ModelMemory("new", 0, 1), ModelMemory("big", 10 * MIB, 1)], Available(MIB, "free memory"))


def test_the_control_group_limits_what_is_there(tmp_path: Path) -> None:
    free = available(tmp_path)
    assert free.source == "free memory" and free.bytes > 0
    (tmp_path / "memory.max").write_text("50000000\n")
    (tmp_path / "memory.current").write_text("20000000\n")
    assert available(tmp_path) == Available(30_000_000, "cgroup limit")
    (tmp_path / "memory.max").write_text("max\n")
    assert available(tmp_path).source == "free memory"


def test_the_older_control_group_layout_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("7000000")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("9000000")
    assert available(tmp_path) == Available(0, "cgroup limit")


def test_peak_memory_of_a_process() -> None:
    assert peak_rss_bytes(os.getpid()) > 10 * MIB
    assert peak_rss_bytes(2**22 + 1) == 0
