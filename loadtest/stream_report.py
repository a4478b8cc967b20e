"""The tables and the plot of `lockstep bench stream`, written once."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.measurements import write_once
from loadtest.statistics import interval
from loadtest.stream import CORES, StreamCase, against_loop, shares
from loadtest.stream_loop import STAGES

COLUMNS = (
    "clip", "k", "frames/s", "streams held", "streams held at 25/s", "N_max", "ours / N_max", "bare loop frames/s",
    "ours / bare loop", "CPU-ms a frame", "bare CPU-ms a frame", "rounds used",
)  # fmt: skip


def table(run: dict[str, Any]) -> str:
    """Markdown: a row a size and k."""
    return _markdown(COLUMNS, [_row(case) for case in run["cases"]])


def _row(case: StreamCase) -> list[str]:
    rate, loop = _median([o.rate for o in case.ours]), _median([m.rate for m in case.limits])
    most = _median([m.most(CORES) for m in case.limits])
    used = shares(case)
    share = str(interval(used)) if used else "no quiet round"
    beside = str(interval(against_loop(case))) if used else "no quiet round"
    return [
        f"{case.size} at {case.fps:g}/s", str(case.every), f"{rate:.1f}", f"{rate / case.fps:.1f}", f"{rate / 25:.1f}",
        f"{most / case.fps:.1f}", share, f"{loop:.1f}", beside, f"{_median([o.cpu_ms for o in case.ours]):.1f}",
        f"{_median([m.cpu_ms for m in case.limits]):.1f}", f"{len(used)} of {len(case.ours)}",
    ]  # fmt: skip


def stage_table(run: dict[str, Any]) -> str:
    """Markdown: what N_max is made of, CPU ms of a call of each stage (medians of the rounds)."""
    rows = [
        [case.size, str(case.every), *(f"{_median([m.per_call_ms[s] for m in case.limits]):.2f}" for s in STAGES)]
        for case in run["cases"]
    ]
    return _markdown(("clip", "k", *(f"{stage}, CPU-ms" for stage in STAGES)), rows)


def core_table(run: dict[str, Any]) -> str:
    """Markdown: the alignment core alone."""
    rows = [
        [
            "live" if row["live"] else "file", str(row["every"]), str(row["tracks"]),
            *(f"{row['us_per_frame'][name]:.1f}" for name in ("mixer", "timeline", "accountant")),
            f"{row['core_frames_per_s']:.0f}", f"{row['bytes_per_stream'] / 1024:.0f}",
            f"{row['most_held']} of {row['bound']}",
        ]
        for row in run["core"]
    ]  # fmt: skip
    columns = (
        "source", "k", "tracks", "mixer, us a frame", "timeline, us", "accountant, us", "core frames/s",
        "KiB a stream", "pictures held, of at most",
    )  # fmt: skip
    return _markdown(columns, rows)


def tracker_table(run: dict[str, Any]) -> str:
    """Markdown: ByteTrack by number of objects."""
    return _markdown(("objects", "CPU-ms a frame"), [[str(n), f"{ms:.2f}"] for n, ms in run["tracker_ms"].items()])


def text(run: dict[str, Any], name: str) -> str:
    """The whole report."""
    job = run["job"]
    facts = "\n".join(f"- {key}: {value}" for key, value in run["facts"].items())
    return (
        f"# Stream benchmark, {run['facts']['date']}\n\nCommand: `lockstep bench stream --model {job['model']} "
        f"--rounds {job['rounds']} --seconds {job['seconds']:g} --streams {job['streams']}`.\n\n"
        f"`lockstep run` over {job['streams']} copies of a clip (H.264, two B-frames), tracked, mixed to MP4, results "
        f"as JSON Lines, in one process. Files are not paced: the number of streams held is the frames a second "
        f"sustained, from the first open to the last output closed, over the clip's rate; the model was loaded before. "
        f"N_max is {CORES} cores over the CPU time that the bare loop (PyAV, OpenVINO, OpenCV, trackers, libx264; the "
        f"same engine file, encoder and preset; one process a core, no picture shared) spent on a frame in the same "
        f"round, scaled for the ratio to the cores others left. Both arms found the same boxes before they were timed. "
        f"Arms in random order, ratios of pairs of a round, median with 95 % bootstrap interval; rounds with over "
        f"10 % foreign CPU are left out of the ratios, not of the rates.\n\n{facts}\n\n{table(run)}\n\n"
        f"## What N_max is made of\n\nA call of each stage in the bare loop; inference and tracking run on every k-th "
        f"frame.\n\n{stage_table(run)}\n\n"
        f"## The alignment core alone\n\nNothing decoded, drawn or encoded; memory without pictures, after 65 s.\n\n"
        f"{core_table(run)}\n\n## The tracker\n\n{tracker_table(run)}\n\n![shares]({name}.png)\n"
    )


def write(run: dict[str, Any], folder: Path, name: str) -> Path:
    """`<name>.md`, `.json` and `.png`; a file that exists is never overwritten."""
    document = {**run, "cases": [{**asdict(case), "shares": shares(case)} for case in run["cases"]]}
    return write_once(folder, name, text(run, name), document, lambda path: plot(run, path))


def plot(run: dict[str, Any], path: Path) -> None:
    """Left: ours over N_max, a dot a round. Right: the bare loop's stages beside our CPU time, a shown frame."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases: list[StreamCase] = run["cases"]
    names = [f"{case.size}\nk={case.every}" for case in cases]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for place, case in enumerate(cases):
        left.plot([place] * len(shares(case)), shares(case), "o", alpha=0.6)
    left.axhline(0.85, linestyle="--", color="grey")
    left.set_xticks(range(len(cases)), names)
    left.set_ylim(0, 1.1)
    left.set_title("ours / N_max, a dot a round (aim: 0.85)")
    below = np.zeros(len(cases))
    for stage in STAGES:
        heights = np.array([_median([m.stage_ms[stage] for m in case.limits]) for case in cases])
        right.bar(np.arange(len(cases)) - 0.2, heights, 0.38, bottom=below, label=stage)
        below += heights
    right.bar(
        np.arange(len(cases)) + 0.2, [_median([o.cpu_ms for o in c.ours]) for c in cases], 0.38, color="k", label="ours"
    )
    right.set_xticks(range(len(cases)), names)
    right.set_title("CPU-ms a shown frame")
    right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else float("nan")


def _markdown(columns: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
