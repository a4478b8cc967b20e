"""Reading a gallery: snapshot and journal become a View; `view` looks first whether anything changed on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import NotFound
from serving.errors_gallery import GalleryDamaged
from serving.gallery import journal, snapshot
from serving.gallery.facts import FACTS, Facts, read_facts
from serving.gallery.journal import Change
from serving.gallery.view import View
from serving.types import FloatArray

_ATTEMPTS = 10


class GalleryReader:
    """One gallery's folder. Cheap to ask again: three `stat` calls where nothing changed. For one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: tuple[int, int] | None = None
        self._facts_seen: tuple[int, int] | None = None
        self._facts: Facts | None = None
        self._state: _State | None = None
        self._view: View | None = None
        self.number, self.position = 0, 0  # of the snapshot; of the journal's first byte that was not read

    @property
    def facts(self) -> Facts:
        """The gallery's record as it is now. NotFound, GalleryDamaged."""
        seen = _stamp(self.folder / FACTS)
        if seen is None:
            raise self._absent()
        if self._facts is None or seen != self._facts_seen:
            self._facts, self._facts_seen = read_facts(self.folder), seen
        return self._facts

    @property
    def next_sample(self) -> int:
        """The number the next sample gets."""
        return self._fresh().next_sample

    def view(self) -> View:
        """Everything acknowledged up to now. NotFound, GalleryDamaged."""
        state = self._fresh()
        if self._view is None:
            self._view = state.view()
        return self._view

    def _fresh(self) -> _State:
        for _ in range(_ATTEMPTS):
            try:
                return self._read()
            except FileNotFoundError:  # a new snapshot took the place of the one that was being opened
                self._seen = None
        raise self._absent()

    def _read(self) -> _State:
        seen = _stamp(self.folder / snapshot.CURRENT)
        if seen is None:
            raise self._absent()
        if self._state is None or seen != self._seen:
            self.number = snapshot.current(self.folder)
            base = snapshot.load(self.folder, self.number)
            self._state, self._view = _State(base.view, base.next_sample), None
            self.position, self._seen = 0, seen
        path = snapshot.journal_path(self.folder, self.number)
        if path.stat().st_size > self.position:
            for change, end in journal.read(path, self.position):
                self._state.apply(change, self.folder.name)
                self.position, self._view = end, None
        return self._state

    def _absent(self) -> NotFound:
        return NotFound(f"no gallery {self.folder.name!r}", hint="`lockstep galleries list` lists them")


class _State:
    """What a view is made of, while changes are applied."""

    def __init__(self, base: View, next_sample: int) -> None:
        self._base, self._near = base.base, base.nearest
        self._tail: list[FloatArray] = []
        self._owner, self._sample, self._alive = base.owner.tolist(), base.sample.tolist(), base.alive.tolist()
        self._subjects = list(base.subjects)
        self._places = {name: place for place, name in enumerate(base.subjects)}
        self._labels = dict(base.labels)
        self.next_sample = next_sample

    def apply(self, change: Change, name: str) -> None:
        vectors = iter(change.vectors)
        for op in change.ops:
            kind = op["op"]
            if kind == "add":
                self._add(op, next(vectors))
            elif kind == "label":
                self._labels[op["subject"]] = op["label"]
            elif kind == "drop":
                place = self._places.get(op["subject"], -1)
                self._kill(row for row, owner in enumerate(self._owner) if owner == place)
                self._labels.pop(op["subject"], None)
            elif kind == "drop_sample":
                self._kill(row for row, sample in enumerate(self._sample) if sample == op["sample"])
            else:
                raise GalleryDamaged(f"gallery {name}: journal: unknown change {kind!r}", hint="use a newer version")

    def view(self) -> View:
        width = self._tail[0].shape[0] if self._tail else self._base.shape[1]
        tail = np.stack(self._tail) if self._tail else np.zeros((0, width), np.float32)
        base = self._base if len(self._base) else np.zeros((0, width), np.float32)
        return View(
            base, tail, np.array(self._owner, np.int32), np.array(self._sample, np.int64),
            np.array(self._alive, bool), tuple(self._subjects), dict(self._labels), self._near,
        )  # fmt: skip

    def _add(self, op: dict[str, Any], vector: FloatArray) -> None:
        subject = op["subject"]
        place = self._places.setdefault(subject, len(self._subjects))
        if place == len(self._subjects):
            self._subjects.append(subject)
        self._tail.append(vector)
        self._owner.append(place)
        self._sample.append(op["sample"])
        self._alive.append(True)
        self.next_sample = max(self.next_sample, op["sample"] + 1)

    def _kill(self, rows: Any) -> None:
        for row in list(rows):
            self._alive[row] = False


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns
