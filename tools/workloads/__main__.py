"""Convert what is not converted, serve it, run every workload's row, write `output/workloads/index.html`.

    python -m tools.workloads [ROW ...]     # names of files under rows/; default: all

Exit status 1 where a row failed; it is named on the page, and the others went on.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

import httpx2 as httpx

from loadtest.facts import machine_facts
from serving.bundle import catalogue
from serving.config import Settings, as_environment, load_settings
from tools.serve import LOCKSTEP, ROOT, Server
from tools.workloads.bench import Bench
from tools.workloads.page import render
from tools.workloads.row import Row, Shown
from tools.workloads.rows import rows_named

OUTPUT = ROOT / "output" / "workloads"
Result = tuple[Row, Shown | str, float]


def main(names: Sequence[str]) -> int:
    """The rows, the page, the exit status."""
    began = time.monotonic()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    settings = load_settings(galleries=OUTPUT / "galleries").settings
    rows = rows_named(names)
    wanted = list(dict.fromkeys(model for row in rows for model in row.models))
    absent = convert(settings, wanted)
    served = [model for model in wanted if model not in absent]
    results: list[Result] = []
    try:
        with (
            Server(served, **as_environment(settings)) as server,
            httpx.Client(base_url=server.url, timeout=60) as http,
        ):
            bench = Bench(http, server.process.pid, settings, OUTPUT)
            for number, row in enumerate(rows, 1):
                results.append(run(row, bench, absent, f"{number}/{len(rows)}"))
    except RuntimeError as error:
        results += [(row, f"not served: {error}", 0.0) for row in rows[len(results) :]]
    page = OUTPUT / "index.html"
    facts = machine_facts()
    page.write_text(render(results, {name: facts[name] for name in ("cpu", "cores", "date")}), "utf-8")
    failed = [row.title for row, shown, _ in results if isinstance(shown, str)]
    print(f"\n{len(rows) - len(failed)} of {len(rows)} workloads in {time.monotonic() - began:.0f} s. What was made:")
    for path in [page, *(file for _, shown, _ in results if isinstance(shown, Shown) for file in shown.files)]:
        print(f"  {path}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def convert(settings: Settings, models: Sequence[str]) -> set[str]:
    """Convert what is not servable yet, in this order; the names of those that are not even then."""
    for model in models:
        if model not in catalogue(settings.repository)[0]:
            print(f"  $ lockstep convert models/{model}.yaml", flush=True)
            subprocess.run([LOCKSTEP, "convert", f"models/{model}.yaml"], cwd=ROOT, check=False, stdout=sys.stderr)
    return set(models) - set(catalogue(settings.repository)[0])


def run(row: Row, bench: Bench, absent: set[str], count: str) -> Result:
    """One row: whatever it raises is its own failure."""
    print(f"\n[{count}] {row.title}", flush=True)
    began = time.monotonic()
    if missing := [model for model in row.models if model in absent]:
        return row, f"not converted: {', '.join(missing)}; the message of `lockstep convert` says why", 0.0
    try:
        shown: Shown | str = row.show(bench)
    except Exception as error:  # noqa: BLE001  a row may fail in any way, and the others go on
        shown = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - began
    if isinstance(shown, str):
        print(f"  failed: {shown}")
    else:
        for name, value in shown.figures.items():
            print(f"  {name}: {value}")
    return row, shown, seconds


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
