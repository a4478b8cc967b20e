"""What the mixer's HLS shows: its playlists, and the tables beside the segments that they list."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_LISTED = re.compile(r"#EXTINF:([\d.]+),\nsegment-(\d+)\.m4s")


class Mixed:
    """Look while it goes on: of a live source old segments are taken away."""

    def __init__(self, folder: Path, sources: Sequence[str]) -> None:
        self._folder = folder
        self._tables: dict[str, dict[int, list[dict[str, Any]]]] = {source: {} for source in sources}
        self.longest_s = 0.0  # of the segments seen

    def look(self) -> None:
        """Keep what is listed now."""
        for source, tables in self._tables.items():
            home = self._folder / source
            listed = _LISTED.findall((home / "index.m3u8").read_text()) if (home / "index.m3u8").exists() else []
            for seconds, number in listed:
                if int(number) not in tables:
                    tables[int(number)] = json.loads((home / f"segment-{number}.json").read_bytes())["frames"]
                    self.longest_s = max(self.longest_s, float(seconds))

    def newest(self) -> dict[str, int]:
        """By source, the number of its newest segment; -1: none yet."""
        return {source: max(tables, default=-1) for source, tables in self._tables.items()}

    def gap_s(self) -> float:
        """The longest time between two pictures that follow each other, of all sources."""
        ats = ([frame["out_pts_ns"] for frame in self._frames(source)] for source in self._tables)
        return max((b - a) / 1e9 for shown in ats for a, b in itertools.pairwise(shown))

    def faults(self) -> list[str]:
        """Frames that stand in two places, and segments whose numbers leave some out."""
        found = []
        for source, tables in self._tables.items():
            keys = Counter((frame["key"]["epoch"], frame["key"]["pts_ns"]) for frame in self._frames(source))
            found += [f"{source}: {key} stands {n} times" for key, n in keys.items() if n > 1]
            if any(b != a + 1 for a, b in itertools.pairwise(sorted(tables))):
                found.append(f"{source}: segments {sorted(tables)}")
        return found

    def _frames(self, source: str) -> list[dict[str, Any]]:
        tables = self._tables[source]
        return [frame for number in sorted(tables) for frame in tables[number]]
