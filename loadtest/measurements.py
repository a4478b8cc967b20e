"""A finished measurement is three files, written once: the table, all figures, the plot."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def write_once(folder: Path, name: str, text: str, document: Mapping[str, Any], plot: Callable[[Path], None]) -> Path:
    """`<name>.md`, `.json` and `.png`; the path of the first. Raises FileExistsError where one of them is there."""
    writable(folder)
    targets = [folder / f"{name}{suffix}" for suffix in (".md", ".json", ".png")]
    for target in targets:
        if target.exists():
            raise FileExistsError(f"{target} exists: a finished measurement is never rewritten; choose another name")
    targets[0].write_text(text, "utf-8")
    targets[1].write_text(json.dumps(document, indent=1), "utf-8")
    plot(targets[2])
    return targets[0]


def writable(folder: Path) -> None:
    """Make a folder and try to write in it, before minutes are spent. Raises RuntimeError that says what is wrong."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise RuntimeError(
            f"{folder}: no results can be written there ({reason}); name another with --output"
        ) from error
