"""A finished measurement is three files, written once: the table, all figures, the plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def write_once(folder: Path, name: str, text: str, document: Mapping[str, Any], plot: Callable[[Path], None]) -> Path:
    """`<name>.md`, `.json` and `.png`; the path of the first. Raises FileExistsError where one of them is there."""
    targets = [folder / f"{name}{suffix}" for suffix in (".md", ".json", ".png")]
    for target in targets:
        if target.exists():
            raise FileExistsError(f"{target} exists: a finished measurement is never rewritten; choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    targets[0].write_text(text, "utf-8")
    targets[1].write_text(json.dumps(document, indent=1), "utf-8")
    plot(targets[2])
    return targets[0]
