"""What a gallery is: `gallery.json`, replaced as a whole by rename."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from serving.errors import ParameterInvalid
from serving.errors_gallery import GalleryDamaged

FACTS = "gallery.json"
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}\Z", re.ASCII)
SUBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z", re.ASCII)
MAX_DIMENSION = 4096
MAX_LABEL = 200


@dataclass(frozen=True, slots=True)
class Facts:
    """A gallery's own record.

    pipeline: what enrols into it. dimension and fingerprint: of its vectors, 0 and '' until the first one. threshold:
    cosine from which a subject is known; None: the asker's own. margin: least lead over the next subject. far: the
    false-accept rate that the threshold was chosen for, if it was.
    """

    name: str
    pipeline: str
    dimension: int = 0
    fingerprint: str = ""
    threshold: float | None = None
    margin: float | None = None
    far: float | None = None

    def __post_init__(self) -> None:
        if not NAME.match(self.name):
            raise ParameterInvalid(f"gallery: expected a name of a-z, 0-9 and _ (first a letter), got {self.name!r}")
        for name in ("threshold", "margin"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and -1 <= value <= 1):
                raise ParameterInvalid(f"{name}: expected a cosine from -1 to 1, got {value!r}")

    def stamped(self, dimension: int, fingerprint: str) -> Facts:
        """With the mark of the chain of models that made its first vector."""
        return replace(self, dimension=dimension, fingerprint=fingerprint)


def read_facts(folder: Path) -> Facts:
    """Raises GalleryDamaged."""
    try:
        document: dict[str, Any] = json.loads((folder / FACTS).read_bytes())
        document.pop("schema")
        return Facts(**document)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise GalleryDamaged(f"gallery {folder.name}: {FACTS} cannot be read: {error}") from error


def write_facts(folder: Path, facts: Facts) -> None:
    """Whole or not at all, durable when it returns."""
    write_whole(folder / FACTS, json.dumps({"schema": 1, **asdict(facts)}, indent=1).encode() + b"\n")


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file by rename; on the disk when it returns."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checked_subject(subject: str) -> str:
    """The id; ParameterInvalid where it is none."""
    if not SUBJECT.match(subject):
        raise ParameterInvalid(
            f"subject: expected 1 to 64 letters, digits, '.', '_' or '-', got {subject[:80]!r}",
            hint="a name with other letters goes into `label`",
        )
    return subject
