"""`python -m serving.testing.simulator --seeds 1000`: one line of totals, exit 1 if something is wrong."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from serving.testing.simulator import Tally, run_seeds

CHUNK = 20


def play(seeds: int, jobs: int) -> Tally:
    """The seeds 0 to `seeds`, on so many processes."""
    tally = Tally()
    chunks = [range(first, min(first + CHUNK, seeds)) for first in range(0, seeds, CHUNK)]
    if jobs == 1:
        for chunk in chunks:
            tally.add(run_seeds(chunk))
        return tally
    # Spawned, not forked: a caller with threads of its own would hand over locks that nobody opens again.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for part in pool.map(run_seeds, chunks):
            tally.add(part)
    return tally


def main() -> int:
    """Parse, play, print."""
    parser = argparse.ArgumentParser(prog="python -m serving.testing.simulator", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds, from 0 (default 1000)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    asked = parser.parse_args()
    tally = play(asked.seeds, asked.jobs)
    sys.stdout.write(tally.line() + "\n")
    for seed, faults in sorted(tally.wrong.items())[:20]:
        sys.stdout.write(f"seed {seed}: {'; '.join(faults[:3])}\n")
    rare = tally.too_rare() if asked.seeds >= 1000 else []
    if rare:
        sys.stdout.write(f"struck too rarely: {', '.join(rare)}\n")
    return 1 if tally.wrong or rare else 0


if __name__ == "__main__":
    sys.exit(main())
