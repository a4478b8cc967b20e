"""The HTML report of a load run: one file that needs no network, with tables, plots and machine facts."""

from __future__ import annotations

import html
import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from loadtest import load_figures as figures
from loadtest.arrivals import shape_of, starts
from loadtest.load import Run
from loadtest.measurements import writable

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1180px; padding: 0 1em; color: #1b1f24 }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6em 0 }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #d8dee4 }
th { background: #f6f8fa } td:first-child, th:first-child { text-align: left }
.verdict td:nth-child(2) { font-weight: 600 } svg { width: 100%; height: auto } .note { color: #57606a }
"""
COLOURS = ("#2da44e", "#bf8700", "#8250df", "#a475f9", "#8c959f", "#cf222e", "#1b1f24")


def write(run: Run, folder: Path, name: str) -> Path:
    """`<name>.html` in a folder. FileExistsError where it is there; RuntimeError where it cannot be written."""
    writable(folder)
    target = folder / f"{name}.html"
    with target.open("x", encoding="utf-8") as sink:
        sink.write(page(run))
    return target


def summary(run: Run) -> list[dict[str, str]]:
    """Rows of a phase's figures, as they are printed and shown."""
    return [
        {
            "phase": row.name, "s": f"{row.seconds:g}", "offered/s": f"{row.offered:.1f}",
            "goodput/s": f"{row.goodput:.1f}", "p50 ms": _ms(row.p50_ms), "p95 ms": _ms(row.p95_ms),
            "p99 ms": _ms(row.p99_ms), "reject p50 ms": _ms(row.reject_p50_ms), "reject p99 ms": _ms(row.reject_p99_ms),
            **{name: str(count) for name, count in zip(figures.OUTCOMES, row.counts, strict=True)},
        }
        for row in figures.phases(run)
    ]  # fmt: skip


def short(run: Run) -> list[dict[str, str]]:
    """The columns of `summary` that fit a terminal."""
    names = ("phase", "offered/s", "goodput/s", "p50 ms", "p95 ms", "late", "rejected", "expired", "wrong", "no answer")
    return [{name: row[name] for name in names} for row in summary(run)]


def verdicts(run: Run) -> list[dict[str, str]]:
    """What the run says: goodput kept, speed of rejection, wrong answers, and whether the generator kept up."""
    rows = {row.name: row for row in figures.phases(run)}
    kept = figures.kept(run)
    found = [{"question": f"goodput kept at {name} (of the best seen)", "seen": f"{kept[name]:.2f}",
              "aim": "0.95 or more" if name == "2x" else ""} for name in kept]  # fmt: skip
    found += [{"question": f"the same for each core that the generators left, at {name}", "seen": f"{share:.2f}",
               "aim": ""} for name, share in figures.kept_of_rest(run).items()]  # fmt: skip
    for name, row in rows.items():
        if shape_of(name) in figures.OVERLOADS and not math.isnan(row.reject_p99_ms):
            seen = f"p50 {row.reject_p50_ms:.0f} ms, p99 {row.reject_p99_ms:.0f} ms"
            found.append({"question": f"rejections at {name} answered in", "seen": seen, "aim": "under 100 ms"})
    kinds = figures.outcomes(run)
    for kind in (figures.WRONG, figures.BROKEN):
        found.append({"question": figures.OUTCOMES[kind], "seen": str(int((kinds == kind).sum())), "aim": "0"})
    late = max((row.late_start_p95_ms for row in rows.values() if sum(row.counts)), default=0.0)
    found.append({"question": "requests sent late by the generator, p95 of the worst phase", "seen": f"{late:.0f} ms",
                  "aim": "under 50 ms, or the generator was the bottleneck"})  # fmt: skip
    if run.samples:
        found.append({"question": "CPU that others took from the machine", "seen": f"{run.foreign_cores:.2f} cores",
                      "aim": "under 0.20, or do not quote this run"})  # fmt: skip
    found.append({"question": "requests never sent or without a record", "seen": str(run.unsent), "aim": "0"})
    return found


def page(run: Run) -> str:
    """The whole page."""
    facts = {
        **run.facts, "generators": f"{run.job.processes} processes; cores together: {_cores(run)}",
        "CPU of others": f"{run.foreign_cores:.2f} cores" if run.samples else "not measured (the server is not ours)",
    }  # fmt: skip
    works = [{"workload": w["name"], "kind": w["kind"], "requests": str(int((run.shots[:, 1] == n).sum())),
              **_of(run, run.shots[:, 1] == n)} for n, w in enumerate(run.works)]  # fmt: skip
    bodies = [{"body": p.name, "requests": str(int((run.shots[:, 2] == n).sum())), **_of(run, run.shots[:, 2] == n)}
              for n, p in enumerate(run.payloads)]  # fmt: skip
    meanings = [{"outcome": name, "meaning": figures.MEANINGS[name]} for name in figures.OUTCOMES]
    plain = [{"fact": k, "value": _plain(v)} for k, v in facts.items()]
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Load test</title><style>{STYLE}</style>"
        f"<h1>Load test, {html.escape(str(run.facts.get('date', '')))}</h1>"
        f"<p>{len(run.shots)} requests, open loop around {run.peak:.1f} requests a second, deadline "
        f"{run.job.deadline_ms} ms. Latency counts from the time at which a request was meant to be sent. One short "
        f"run on one machine: read the shape and the ratios, not the single numbers.</p>"
        f"{_table(verdicts(run), 'verdict')}<h2>Over time</h2>{plot(run)}<h2>Phases</h2>{_table(summary(run))}"
        f"<h2>Workloads</h2>{_table(works)}<h2>Bodies</h2>{_table(bodies)}<h2>Outcomes</h2>{_table(meanings)}"
        f"<h2>Machine</h2>{_table(plain)}</html>\n"
    )


def plot(run: Run) -> str:
    """Four plots over time, as SVG: rates, latencies, what was not good, CPU and memory."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(5 if run.samples else 3, 1, figsize=(12, 14 if run.samples else 9), sharex=True)
    _rates(run, axes[0])
    _latencies(run, axes[1])
    _losses(run, axes[2])
    if run.samples:
        _resources(run, axes[3], axes[4])
    edges = starts(run.phases)
    for axis in axes:
        for number, start in enumerate(edges[:-1]):
            if number % 2 == 0:
                axis.axvspan(start, edges[number + 1], color="#f0f2f5", zorder=0)
        axis.grid(axis="y", color="#d8dee4")
        axis.set_axisbelow(True)
        axis.legend(loc="upper left", bbox_to_anchor=(1.06, 1.0), fontsize=8, frameon=False)
    for phase, start in zip(run.phases, edges, strict=False):
        if phase.name != "rest":
            axes[0].text(
                start, 1.02, phase.name, transform=axes[0].get_xaxis_transform(), ha="left",
                va="bottom", fontsize=8, rotation=40, rotation_mode="anchor",
            )  # fmt: skip
    axes[-1].set_xlabel("seconds")
    axes[0].set_xlim(0, edges[-1])
    drawn.tight_layout()
    sink = io.StringIO()
    drawn.savefig(sink, format="svg")
    plt.close(drawn)
    return sink.getvalue()[sink.getvalue().index("<svg") :]


def _rates(run: Run, axis: Any) -> None:
    kinds = figures.outcomes(run)
    axis.step(*figures.rate(run, np.ones(len(kinds), bool)), where="mid", color="#57606a", label="offered")
    axis.step(*figures.rate(run, kinds == figures.GOOD), where="mid", color=COLOURS[0], label="goodput")
    axis.set_ylabel("requests a second")
    axis.set_ylim(bottom=0)


def _latencies(run: Run, axis: Any) -> None:
    ms = figures.latencies(run)
    for q, colour in ((50, "#0969da"), (95, "#bf8700"), (99, "#cf222e")):
        found = figures.per_second(run, ms, (figures.GOOD, figures.LATE), q)
        axis.plot(*found, ".-", color=colour, linewidth=1, markersize=4, label=f"answers p{q}")
    axis.plot(*figures.per_second(run, ms, (figures.REJECTED,), 99), "x", color=COLOURS[2], label="rejections p99")
    axis.axhline(run.job.deadline_ms, color="#57606a", linestyle="--", linewidth=1, label="deadline")
    axis.set_yscale("log")
    axis.set_ylabel("ms from the intended time")


def _losses(run: Run, axis: Any) -> None:
    kinds = figures.outcomes(run)
    below = np.zeros(1)
    for kind in range(1, len(figures.OUTCOMES)):
        seconds, counts = figures.rate(run, kinds == kind)
        axis.bar(seconds, counts, 1.0, bottom=below, color=COLOURS[kind], label=figures.OUTCOMES[kind])
        below = below + counts
    axis.set_ylabel("not good, a second")


def _resources(run: Run, cpu: Any, memory: Any) -> None:
    at, used, rss = np.array(run.samples).T
    answers = np.sort(run.shots[run.shots[:, 6] == 200, 5])
    middle, step = (at[1:] + at[:-1]) / 2, np.diff(at)
    served = np.diff(np.searchsorted(answers, at))
    cpu.plot(middle, np.diff(used) / step, color="#0969da", label="cores used")
    cpu.set_ylabel("cores")
    cpu.set_ylim(bottom=0)
    cost = np.where(served >= 3, np.diff(used) * 1e3 / np.maximum(served, 1), np.nan)
    beside = cpu.twinx()
    beside.plot(middle, cost, ".", color="#cf222e")
    cpu.plot([], [], ".", color="#cf222e", label="CPU-ms an answer (right)")
    beside.set_ylabel("CPU-ms an answer 200")
    beside.set_ylim(bottom=0)
    memory.plot(at, rss / 2**20, color="#8250df", label="resident MiB, all processes")
    memory.set_ylabel("MiB")
    memory.set_ylim(bottom=0)


def _of(run: Run, chosen: Any) -> dict[str, str]:
    kinds, ms = figures.outcomes(run)[chosen], figures.latencies(run)[chosen]
    answered = ms[np.isin(kinds, (figures.GOOD, figures.LATE))]
    counts = {name: str(int((kinds == kind).sum())) for kind, name in enumerate(figures.OUTCOMES)}
    return {**counts, **{f"p{q} ms": _ms(figures.percentile(answered, q)) for q in (50, 95)}}


def _ms(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.0f}"


def _cores(run: Run) -> str:
    used = {"closed loop": run.closed_cores, **figures.sender_cores(run)}
    return ", ".join(f"{name} {cores:.2f}" for name, cores in used.items() if cores and not math.isnan(cores))


def _plain(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _table(rows: list[dict[str, str]], kind: str = "") -> str:
    if not rows:
        return "<p class='note'>none</p>"
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(v)}</td>" for v in row.values()) + "</tr>" for row in rows)
    return f"<table class='{kind}'><tr>{head}</tr>{body}</table>"
