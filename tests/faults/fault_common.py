"""The common criteria (C), asked after every row."""

from __future__ import annotations

import os
import re
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from fault_rig import Rig, Row
from fault_table import Figures

GROWTH_MB = 64  # of a role in one row: what is bounded does not grow with the row's length


def common(figures: Figures, row: Row, once: bool = True, before: Mapping[str, float] | None = None) -> None:
    """Unaccounted 0, one visible outcome a key, releases in order, no early commit, AE 0, memory bounded."""
    figures.equal("unaccounted frames", row.account().unaccounted, 0)
    figures.none("history checker, AE of measured boxes", row.faults(once))
    figures.told("balance", row.account().text())
    if row.rig.crew.members["accountant"].started_at < row.began:
        figures.none("counters against the ledger", counter_faults(row))
    if before is not None:
        after = memory_mb(row.rig)
        grown = {name: after[name] - before[name] for name in after if name in before}
        figures.at_most("growth of a role's memory", max(grown.values(), default=0.0), GROWTH_MB, " MB")


def memory_mb(rig: Rig) -> dict[str, float]:
    """Resident memory of each role, by name and pid: a process that was started anew is not compared with the old."""
    found = {}
    for member in rig.crew.members.values():
        if member.pid is not None:
            try:
                pages = int(Path(f"/proc/{member.pid}/statm").read_text().split()[1])
            except FileNotFoundError:
                continue
            found[f"{member.name} {member.pid}"] = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return found


def owners(row: Row, seconds: float = 1.0) -> dict[str, str]:
    """Which worker has which source, by what they have in hand over a while."""
    found: dict[str, str] = {}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for name in row.rig.workers:
            clip = row.rig.at_work(name).partition(":")[0]
            if clip.isdigit() and int(clip) < len(row.sources):
                found[row.sources[int(clip)]] = name
        time.sleep(0.002)
    return found


def counter_faults(row: Row) -> list[str]:
    """Counters of the accountant, by source, outcome and reason, against `outcomes` (G13)."""
    (port,) = re.findall(r"http://127\.0\.0\.1:(\d+)/", row.rig.crew.said("accountant"))[-1:]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = []
    for source in row.sources:
        account = row.account([source])
        counted = {
            (outcome, reason): int(float(value))
            for outcome, reason, value in re.findall(_COUNTER.format(source=re.escape(source)), text)
            if float(value)  # every outcome and reason stands at 0 from the start
        }
        told = {("dropped", reason): n for reason, n in account.dropped.items()}
        told |= {("dead_letter", reason): n for reason, n in account.dead.items()} | {
            ("result", "none"): account.results
        }
        told = {key: n for key, n in told.items() if n}
        if counted != told:
            found.append(f"{source}: counted {counted}, on the log {told}")
    return found


_COUNTER = r'lockstep_stream_outcomes_total\{{outcome="(\w+)",pipeline="\w+",reason="(\w+)",source="{source}"\}} (\S+)'
