"""The table of a run: for each row the criteria, the figures and the verdict; printed, and written once where asked."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROWS = {
    "F1": "kill -9 worker",
    "F2": "broker down 30 s",
    "F3": "inference server killed",
    "F4": "Redis flushed, down",
    "F5": "corrupted pictures and packets",
    "F6": "slow consumer",
    "F7": "rebalance storm",
    "F8": "clock jump",
    "F10": "duplicate producer",
    "F11": "poison message",
    "F12": "zombie worker",
    "F13": "camera reconnect",
    "F14": "inference server slow, 1 % errors",
    "F15": "rolling restart of everything",
    "F16": "oversized frame",
    "F19": "loss and delay on the network",
    "F20": "soak",
}


@dataclass(slots=True)
class Figure:
    """One criterion and what was reached."""

    what: str
    wanted: str
    got: str
    ok: bool


@dataclass(slots=True)
class Figures:
    """The figures of one row. strict: False in the quick selection, which shares its machine with other work: a bound
    on time or share is only told there (it must be finite), what must be equal or none holds as ever."""

    row: str
    strict: bool = True
    seconds: float = 0.0
    found: list[Figure] = field(default_factory=list)
    not_run: str = ""

    def at_most(self, what: str, value: float, bound: float, unit: str = "") -> None:
        """value <= bound."""
        ok = value <= bound or (not self.strict and math.isfinite(value))
        self.found.append(Figure(what, f"<= {bound:g}{unit}", f"{value:.3g}{unit}", ok))

    def at_least(self, what: str, value: float, bound: float, unit: str = "") -> None:
        """value >= bound."""
        ok = value >= bound or (not self.strict and bound <= 1.0)
        self.found.append(Figure(what, f">= {bound:g}{unit}", f"{value:.4g}{unit}", ok))

    def equal(self, what: str, value: object, wanted: object) -> None:
        """value == wanted."""
        self.found.append(Figure(what, str(wanted), str(value), value == wanted))

    def none(self, what: str, faults: Sequence[str]) -> None:
        """There are no faults."""
        told = "none" if not faults else f"{len(faults)}: " + "; ".join(faults[:3])
        self.found.append(Figure(what, "none", told, not faults))

    def told(self, what: str, value: str) -> None:
        """For information; no criterion."""
        self.found.append(Figure(what, "-", value, True))

    @property
    def verdict(self) -> str:
        if self.not_run:
            return f"not_run({self.not_run})"
        return "held" if self.found and all(figure.ok for figure in self.found) else "MISSED"


class Table:
    """All rows of a session."""

    def __init__(self) -> None:
        self.rows: dict[str, Figures] = {}
        self.load = ""
        self.strict = True

    @contextmanager
    def row(self, name: str) -> Iterator[Figures]:
        """Collects a row; a test may add to a row of another. Raises AssertionError where a figure was missed."""
        assert name in ROWS, name
        mine = Figures(name, self.strict)
        known = self.rows.setdefault(name, Figures(name))
        began = time.monotonic()
        try:
            yield mine
        except pytest.skip.Exception as skipped:
            known.not_run = known.not_run or str(skipped.msg)
            raise
        except BaseException as error:
            mine.found.append(
                Figure("the row", "runs", " ".join(f"{type(error).__name__}: {error}".split())[:300], False)
            )
            raise
        finally:
            known.seconds += time.monotonic() - began
            known.found += mine.found
        missed = [f"{f.what}: {f.got}, expected {f.wanted}" for f in mine.found if not f.ok]
        assert mine.found, f"{name}: no figure was taken"
        assert not missed, f"{name}: " + "; ".join(missed)

    @property
    def missed(self) -> list[str]:
        """Rows that were missed, and rows that are missing."""
        wrong = [name for name, row in self.rows.items() if row.verdict != "held"]
        return wrong + [f"{name} (missing)" for name in ROWS if name not in self.rows]

    def text(self, whole: bool = True) -> str:
        """Markdown. whole: with rows that are missing."""
        lines = ["| row | criterion | wanted | reached | verdict |", "| --- | --- | --- | --- | --- |"]
        for name, fault in ROWS.items():
            row = self.rows.get(name)
            if row is None and not whole:
                continue
            verdict = row.verdict if row is not None else "missing"
            took = f", {row.seconds:.0f} s" if row is not None else ""
            lines.append(f"| **{name}** | {fault}{took} | | | **{verdict}** |")
            for figure in row.found if row is not None else ():
                got = figure.got.replace("|", "\\|")
                lines.append(f"| | {figure.what} | {figure.wanted} | {got} | {'' if figure.ok else 'missed'} |")
        return "\n".join(lines)

    def document(self, command: str) -> str:
        """The page that is written once."""
        load = " ".join(f"{value:.1f}" for value in os.getloadavg())
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        head = f"# Faults, {when} UTC\n\n`{command}` on {os.cpu_count()} cores, {platform.machine()}, Python"
        head += f" {platform.python_version()}; load average at the end {load}.\n\nLoad: {self.load}.\n"
        missed = ", ".join(self.missed) or "none"
        return f"{head}\n{self.text()}\n\nMissed or missing: {missed}.\n"


def percentile(values: Sequence[float], share: float) -> float:
    """Of at least one value; nan of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan


def spread(values: Sequence[float], unit: str = " s") -> str:
    """min / median / max."""
    if not values:
        return "no values"
    return f"{min(values):.2f} / {percentile(values, 0.5):.2f} / {max(values):.2f}{unit}"


def write(table: Table, folder: Path) -> Path:
    """One file a run; never an old one."""
    path = folder / f"faults-{time.strftime('%Y%m%d-%H%M', time.gmtime())}.md"
    if path.exists():
        raise FileExistsError(path)
    path.write_text(table.document("make test-faults"))
    return path
