"""The tables and the plot of `lockstep bench kafka`, written once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.kafka import ROLES, Figures
from loadtest.measurements import write_once
from loadtest.statistics import interval
from loadtest.stream import CORES

HOPS = ("ingest", *ROLES)
AIM = 0.60


def table(run: dict[str, Any]) -> str:
    """Markdown: both arms and the limit."""
    figures, fps = run["figures"], run["fps"]
    found = [
        (name, _median([arm.rate for arm in arms]), _median([arm.cpu_ms for arm in arms]))
        for name, arms in (("distributed", figures.distributed), ("`lockstep run`", figures.in_process))
    ]
    most = _median([limit.most(CORES) for limit in figures.limits])
    found.append(("N_max (bare loop)", most, _median([limit.cpu_ms for limit in figures.limits])))
    rows = [[name, f"{rate:.1f}", f"{rate / fps:.1f}", f"{rate / 25:.1f}", f"{cpu:.1f}"] for name, rate, cpu in found]
    return _markdown(("path", "frames/s", f"streams at {fps:g}/s", "streams at 25/s", "CPU-ms a frame"), rows)


def hop_table(figures: Figures) -> str:
    """Markdown: CPU-ms a frame of each process of the distributed path."""
    rows = [[hop, f"{_median([arm.hop_ms[hop] for arm in figures.distributed]):.2f}"] for hop in HOPS]
    return _markdown(("hop", "CPU-ms a frame"), rows)


def summary(figures: Figures, fps: float) -> str:
    """Markdown: the ratios and times that have an aim."""
    quiet, every = figures.quiet(), figures.ratios()
    rows = [
        [
            f"CPU a frame: one process / distributed, aim {AIM:g}",
            _share(quiet),
            f"{len(quiet)} of {len(every)} rounds",
        ],
        ["the same, with rounds in which others were busy", _share(every), f"{len(every)} rounds"],
        ["results/s of one worker, model for nothing", f"{_median(figures.stub_rates):.0f}", ""],
        _age(figures.result_age_s, fps),
        ["F1: fresh again after kill -9, s (aim 8)", _times(figures.f1_s), f"{len(figures.f1_s)} kills"],
        ["F2: fresh again after the broker's return, s (aim 5)", _times(figures.f2_s), f"{len(figures.f2_s)} outages"],
    ]
    return _markdown(("figure", "value", "of"), rows)


def text(run: dict[str, Any], name: str) -> str:
    """The whole report."""
    job, figures = run["job"], run["figures"]
    facts = "\n".join(f"- {key}: {value}" for key, value in run["facts"].items())
    foreign = _median([arm.foreign_cores for arm in (*figures.distributed, *figures.in_process)])
    options = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in job.items() if key != "size")
    return (
        f"# Kafka benchmark, {run['facts']['date']}\n\nCommand: `lockstep bench kafka {options}`.\n\n"
        f"{job['streams']} copies of a clip of {job['frames']} pictures ({job['size']}), each frame analysed and mixed"
        f" to HLS: as processes over a one-node Kafka on this machine (an ingest a source, one worker, mixer,"
        f" accountant, broker), and by `lockstep run` in one. Files are not paced; arms in random order; start-up is"
        f" taken off. N_max: {CORES} cores over the CPU of the bare loop in the same round. Other work took"
        f" {foreign:.2f} cores (median).\n\n{facts}\n\n{table(run)}\n\n## What a frame costs\n\n"
        f"{hop_table(figures)}\n\n## Aims\n\n{summary(figures, run['fps'])}\n\n![costs and recovery]({name}.png)\n"
    )


def write(run: dict[str, Any], folder: Path, name: str) -> Path:
    """`<name>.md`, `.json` and `.png`; a file that exists is never overwritten."""
    figures: Figures = run["figures"]
    return write_once(
        folder, name, text(run, name), {**run, "figures": asdict(figures)}, lambda path: plot(figures, path)
    )


def plot(figures: Figures, path: Path) -> None:
    """Left: CPU-ms a frame by hop beside one process. Right: recovery times as distributions."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    below = 0.0
    for hop in HOPS:
        height = _median([arm.hop_ms[hop] for arm in figures.distributed])
        left.bar(0, height, 0.5, bottom=below, label=hop)
        below += height
    left.bar(1, _median([arm.cpu_ms for arm in figures.in_process]), 0.5, color="k", label="lockstep run")
    left.set_xticks([0, 1], ["distributed", "one process"])
    left.set_title("CPU-ms a frame")
    left.legend(fontsize=8)
    for times, name, aim in ((figures.f1_s, "F1 kill -9 of a worker", 8), (figures.f2_s, "F2 broker away", 5)):
        if times:
            lines = right.step(np.sort(times), np.arange(1, len(times) + 1) / len(times), where="post", label=name)
            right.axvline(aim, linestyle="--", color=lines[0].get_color())
            right.legend(fontsize=8)
    right.set_title("recovered within s (dashed: aim)")
    right.set_xlim(left=0)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def _age(age: dict[str, float], fps: float) -> list[str]:
    """The aim is two frame intervals, a batch (which costs nothing here), and what a reader of the log waits."""
    if not age:
        return ["age of a result on the log", "not measured", ""]
    aim = f"aim at p99: {1e3 * (2 / fps + age['hop']):.0f} ms, two frame intervals and the log's hop"
    return [f"age of a result on the log ({aim})", f"p50 {1e3 * age['p50']:.0f} ms, p99 {1e3 * age['p99']:.0f} ms",
            f"hop p99 {1e3 * age['hop']:.0f} ms"]  # fmt: skip


def _share(values: Sequence[float]) -> str:
    return str(interval(list(values))) if values else "no quiet round"


def _times(values: Sequence[float]) -> str:
    if not values:
        return "not measured"
    return f"median {np.median(values):.1f}, p95 {np.percentile(values, 95):.1f}, most {max(values):.1f}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))
