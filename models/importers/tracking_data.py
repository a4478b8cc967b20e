"""The TUD sequences of MOTChallenge 2015 as motmetrics ships them: true boxes and one tracker's output."""

from __future__ import annotations

from pathlib import Path

from models.importers.manifest import read_manifest
from models.importers.package import Fetched, Progress, fetch

SEQUENCES = ("TUD-Campus", "TUD-Stadtmitte")


def tud_file(name: str, cache: Path, progress: Progress) -> Path:
    """A file such as `TUD-Campus/gt.txt` or `TUD-Campus/test.txt`. Raises as models.importers.package.fetch."""
    fetched: Fetched = fetch(read_manifest()["motmetrics"], cache, progress)
    return fetched.path(f"motmetrics/data/{name}")
