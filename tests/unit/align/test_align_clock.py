"""No module of the pipeline reads a clock: time is handed in (docs/guarantees.md, G14)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import serving
from serving.testing.hand_clock import HandClock

SERVING = Path(serving.__file__).parent
WALL = {"time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.ctime", "time.strftime",
        "datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.clock_gettime"}  # fmt: skip
ANY = WALL | {"time.monotonic", "time.monotonic_ns", "time.perf_counter", "time.perf_counter_ns", "time.process_time"}
# May name a date in a log line, a file name or a record, and decides nothing by it.
DATES_ONLY: set[str] = set()


def calls(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            found.add(f"{name}.{node.attr}")
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
            found |= {
                f"{node.module}.{alias.name}" for alias in node.names if alias.name not in ("datetime", "timezone")
            }
    return found


def modules(*names: str) -> list[Path]:
    found = [p for n in names for p in ([SERVING / n] if n.endswith(".py") else sorted((SERVING / n).rglob("*.py")))]
    return [p for p in found if p.exists()]


@pytest.mark.parametrize("path", modules("align", "frames.py"), ids=lambda p: p.name)
def test_the_core_reads_no_clock_at_all(path: Path) -> None:
    assert calls(path.read_text()) & ANY == set()


@pytest.mark.parametrize("path", modules("streams", "clock.py", "pipelines.py"), ids=lambda p: p.name)
def test_the_pipeline_reads_no_wall_clock(path: Path) -> None:
    if path.name not in DATES_ONLY:
        assert calls(path.read_text()) & WALL == set()


@pytest.mark.parametrize(
    "line",
    ["import time\ntime.time()", "from time import time_ns", "import datetime\ndatetime.datetime.now()",
     "from datetime import datetime\ndatetime.utcnow()", "import time as t\nfrom time import time"],
)  # fmt: skip
def test_the_check_sees_a_clock(line: str) -> None:
    assert calls(line) & WALL


def test_the_hand_clock_never_falls() -> None:
    clock = HandClock(5)
    assert clock.advance(10) == 15 == clock.monotonic_ns()
    with pytest.raises(ValueError, match="expected >= 0"):
        clock.set(14)
