"""Open-loop overload: a fixed rate beyond what the server can do, latency counted from the intended send time.

The generator is `oha` (a cargo package), driven by rate with latency correction. Peak goodput is searched with the
same generator, so that both sides of the ratio are measured alike; blocks of peak and overload alternate.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

CONNECTIONS = 128
DEADLINE_MS = 1000
CUT_AT_THE_END = "aborted due to deadline"  # how oha calls what was in flight when its time was over: nobody's fault
COLUMNS = (
    "offered", "goodput/s", "of peak", "refused", "no answer",
    "200: p50 ms", "p99 ms", "refused: p50 ms", "p99 ms",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Block:
    """One block at one rate. Latencies in milliseconds from the intended send time; None where there is no such answer.

    goodput: 200s a second, those later than the deadline too (p99_ms tells). p50_ms, p99_ms: of the 200s.
    refused_share, refused_p50_ms, refused_p99_ms: answers other than 200. unanswered_share: errors and timeouts.
    """

    rate: float
    goodput: float
    refused_share: float
    unanswered_share: float
    p50_ms: float | None
    p99_ms: float | None
    refused_p50_ms: float | None
    refused_p99_ms: float | None


def oha() -> str:
    """The generator's path. RuntimeError says how to get it."""
    found = shutil.which("oha") or os.environ.get("OHA", "")
    if not found:
        raise RuntimeError("oha is not installed: cargo install oha --locked (or name it in OHA)")
    return found


def block(url: str, picture: Path, rate: float, seconds: float) -> Block:
    """`rate` requests a second for `seconds`, whatever the server does."""
    command = [
        oha(), "--no-tui", "--output-format", "json", "--latency-correction", "--stats-success-breakdown",
        "-q", str(max(1, round(rate))), "-z", f"{seconds}s", "-c", str(CONNECTIONS), "-m", "POST",
        "-D", str(picture), "-T", "image/jpeg", "-H", f"X-Request-Timeout-Ms: {DEADLINE_MS}", "-t", "10s", url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode:
        raise RuntimeError(f"oha ended with {done.returncode}: {done.stderr[-300:]}")
    return read(json.loads(done.stdout), rate)


def read(report: dict[str, Any], rate: float) -> Block:
    """oha's JSON document as a block."""
    codes = {int(code): int(count) for code, count in report["statusCodeDistribution"].items()}
    errors = {word: int(count) for word, count in report["errorDistribution"].items() if word != CUT_AT_THE_END}
    unanswered, good = sum(errors.values()), codes.get(200, 0)
    total, seconds = sum(codes.values()) + unanswered, float(report["summary"]["total"])
    refused = total - good - unanswered
    return Block(
        rate, good / seconds, refused / max(1, total), unanswered / max(1, total),
        *_latencies(report["latencyPercentilesSuccessful"], good),
        *_latencies(report["latencyPercentilesNotSuccessful"], refused),
    )  # fmt: skip


def _latencies(found: dict[str, Any], count: int) -> tuple[float | None, float | None]:
    return (float(found["p50"]) * 1e3, float(found["p99"]) * 1e3) if count else (None, None)


def run(
    url: str, picture: Path, peak_guess: float, rounds: int, seconds: float, say: Callable[[str], None]
) -> list[Any]:
    """Find the peak around a guess, then alternate peak, 2x and 5x; rows of (factor, blocks)."""
    tried = [block(url, picture, peak_guess * share, seconds) for share in (0.7, 0.85, 1.0, 1.15)]
    peak = max(tried, key=lambda b: b.goodput)
    say(f"peak goodput {peak.goodput:.1f}/s at {peak.rate:.1f}/s offered")
    rows: dict[float, list[Block]] = {1.0: [], 2.0: [], 5.0: []}
    for number in range(rounds):
        for factor, blocks in rows.items():
            blocks.append(block(url, picture, peak.rate * factor, seconds))
        say(f"overload round {number + 1}/{rounds}")
    return list(rows.items())


def table(rows: list[tuple[float, list[Block]]]) -> str:
    """Markdown: goodput at 1x, 2x, 5x of the peak's rate, and its ratio to the peak of the same round. refused: of all
    that was sent, as is "no answer"."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    peaks = rows[0][1]
    for factor, blocks in rows:
        ratio = median(b.goodput / p.goodput for b, p in zip(blocks, peaks, strict=True))
        cells = [
            f"{factor:.0f}x ({median(b.rate * 1 for b in blocks):.0f}/s)",
            f"{median(b.goodput for b in blocks):.1f}",
        ]
        cells += [f"{ratio:.2f}", f"{median(b.refused_share for b in blocks):.0%}"]
        cells += [f"{median(b.unanswered_share for b in blocks):.0%}"]
        cells += [_median(b.p50_ms for b in blocks), _median(b.p99_ms for b in blocks)]
        cells += [_median(b.refused_p50_ms for b in blocks), _median(b.refused_p99_ms for b in blocks)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _median(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):.0f}" if known else "-"
