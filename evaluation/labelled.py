"""Labelled pictures on disk: `labels.csv` (`file,label`) in the folder, or a subfolder a label."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Sequence
from pathlib import Path

from serving.errors import SpecInvalid

PICTURES = (".jpg", ".jpeg", ".png", ".webp")


def read_labelled(folder: Path) -> list[tuple[Path, str]]:
    """(file, label text) in the order of the names. Raises SpecInvalid."""
    table = folder / "labels.csv"
    if table.is_file():
        with table.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        if not rows or {"file", "label"} - rows[0].keys():
            raise SpecInvalid(f"{table}: expected a CSV with the columns file,label")
        found = sorted((folder / row["file"], row["label"] or "") for row in rows)
    elif folder.is_dir():
        found = sorted((path, path.parent.name) for path in folder.glob("*/*") if path.suffix.lower() in PICTURES)
    else:
        raise SpecInvalid(f"{folder}: not a folder", hint="--data takes a folder of labelled pictures")
    absent = [path for path, _ in found if not path.is_file() or folder.resolve() not in path.resolve().parents]
    if absent:
        raise SpecInvalid(f"{table}: {absent[0].name}: no such file in {folder}")
    if not found:
        raise SpecInvalid(f"{folder}: no labelled pictures", hint="labels.csv (file,label), or a subfolder a label")
    return found


def class_ids(text: str, labels: Sequence[str], where: str) -> tuple[int, ...]:
    """A label text (`cat`, `cat;dog`, a class_id, `` for none) as class ids; SpecInvalid for an unknown one."""
    known = {label: number for number, label in enumerate(labels)}
    found = []
    for part in (word.strip() for word in text.split(";") if word.strip()):
        if part not in known and not (part.isdecimal() and int(part) < max(1, len(labels))):
            close = difflib.get_close_matches(part, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "labels are those of the model's YAML, or `unknown`"
            raise SpecInvalid(f"{where}: unknown label {part!r}", hint=hint)
        found.append(known[part] if part in known else int(part))
    return tuple(found)
