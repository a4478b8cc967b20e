"""The table and the plot of a run, written once."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.measurements import write_once
from loadtest.rest import CORES, MAX_FOREIGN, Case, Sample
from loadtest.statistics import Interval, interval

COLUMNS = (
    "case", "arm", "req/s", "of BEST", "of PLAIN", "ours / it",
    "p50 ms", "p95 ms", "CPU-ms a request", "RSS MiB", "refused",
)  # fmt: skip
PEERS = ("mosec", "fastapi")


def limit_of(best: Sample, served: Sample) -> float:
    """BEST's rate on the cores that generator and foreign processes left to the served arm in the same round."""
    return best.rate * (CORES - served.generator_cores - served.foreign_cores) / (CORES - best.foreign_cores)


def ratios(case: Case, arm: str, against: str) -> Interval:
    """Pairwise ratio of rates, pairs with over 10 % foreign CPU dropped; `best` is scaled to the cores left."""
    pairs = []
    for ours, other in zip(case.of(arm), case.of(against), strict=True):
        if max(ours.foreign_cores, other.foreign_cores) > MAX_FOREIGN:
            continue
        pairs.append(ours.rate / (limit_of(other, ours) if against == "best" else other.rate))
    return interval(pairs) if pairs else interval([float("nan")])


def table(run: dict[str, Any]) -> str:
    """Markdown: a row for each case and arm."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for case in run["cases"]:
        for arm in dict.fromkeys(sample.arm for sample in case.samples):
            lines.append(_row(case, arm))
    return "\n".join(lines)


def _row(case: Case, arm: str) -> str:
    samples = case.of(arm)
    median = {
        name: float(np.median([getattr(s, name) for s in samples])) for name in ("rate", "p50_ms", "p95_ms", "cpu_ms")
    }
    many = case.clients > 1
    served = arm not in ("best", "plain")
    of_best = str(ratios(case, arm, "best")) if many and served and case.of("best") else ""
    of_plain = str(ratios(case, arm, "plain")) if many and served and case.of("plain") else ""
    ours = str(ratios(case, "lockstep", arm)) if many and arm in PEERS else ""
    rss = f"{case.rss_mib[arm]:.0f}" if arm in case.rss_mib else ""
    refused = sum(s.refused + s.broken for s in samples)
    what = f"{case.model} {case.size} c{case.clients}"
    cells = [what, arm, f"{median['rate']:.1f}", of_best, of_plain, ours, f"{median['p50_ms']:.1f}"]
    cells += [f"{median['p95_ms']:.1f}" if served else "", f"{median['cpu_ms']:.1f}", rss, str(refused)]
    return "| " + " | ".join(cells) + " |"


def text(run: dict[str, Any], name: str) -> str:
    """The whole report."""
    facts = "\n".join(f"- {key}: {value}" for key, value in run["facts"].items())
    dropped = sum(s.foreign_cores > MAX_FOREIGN for case in run["cases"] for s in case.samples)
    return (
        f"# REST benchmark, {run['facts']['date']}\n\nCommand: `lockstep bench rest --rounds {run['rounds']} --seconds "
        f"{run['seconds']}`. {run['rounds']} rounds of {run['seconds']} s an arm in random order; ratios are "
        f"medians of pairs of the same round with 95 % bootstrap intervals; `of BEST` scales the bare loop to the "
        f"cores that the generator left. Blocks with over 10 % foreign CPU, whose pairs were dropped: {dropped}.\n\n"
        f"{facts}\n\n{table(run)}\n\n![rates]({name}.png)\n"
    )


def write(run: dict[str, Any], folder: Path, name: str) -> Path:
    """`<name>.md`, `.json` and `.png` in a folder; a file that exists is never overwritten."""
    document = {**run, "cases": [asdict(case) for case in run["cases"]]}
    return write_once(folder, name, text(run, name), document, lambda path: plot(run, path))


def plot(run: dict[str, Any], path: Path) -> None:
    """Rates of every arm and round, a panel a case."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = [case for case in run["cases"] if case.clients > 1]
    figure, panels = plt.subplots(1, max(1, len(cases)), figsize=(4 * max(1, len(cases)), 4), squeeze=False)
    for panel, case in zip(panels[0], cases, strict=False):
        arms = list(dict.fromkeys(s.arm for s in case.samples))
        panel.boxplot([[s.rate for s in case.of(arm)] for arm in arms], tick_labels=arms)
        panel.set_title(f"{case.model}\n{case.size}, {case.clients} clients", fontsize=9)
        panel.set_ylim(bottom=0)
        panel.set_ylabel("answers a second")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
