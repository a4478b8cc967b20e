"""Changing a gallery: one writer at a time, by a lock that the kernel drops when its holder dies.

    with GalleryWriter(reader) as writer:
        writer.enrol("anna", [NewSample(vector)], label="Anna", fingerprint=...)

Every method returns when its change is on the disk; a writer killed before that leaves the gallery as it was.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from serving.errors import NotFound, ParameterInvalid
from serving.errors_gallery import GalleryBusy, GalleryMismatch, GalleryNotWritten
from serving.gallery import journal, snapshot
from serving.gallery.facts import MAX_DIMENSION, MAX_LABEL, Facts, checked_subject, write_facts
from serving.gallery.journal import Change
from serving.gallery.reader import GalleryReader
from serving.gallery.view import unit
from serving.types import FloatArray

LOCK = "lock"
# A journal is read whole by whoever opens the gallery: beyond this it becomes a snapshot.
SNAPSHOT_AFTER_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class NewSample:
    """A vector to enrol, float32 [d], and what is told of it (quality, SHA-256 of the picture)."""

    vector: FloatArray
    about: Mapping[str, Any] = field(default_factory=dict)


class GalleryWriter:
    """Use as a context. Waits up to `wait_s` for another writer to end, then GalleryBusy."""

    def __init__(self, reader: GalleryReader, wait_s: float = 5.0, pause: Callable[[float], None] = time.sleep) -> None:
        self._reader, self._wait_s, self._pause = reader, wait_s, pause
        self._lock: BinaryIO | None = None

    def __enter__(self) -> GalleryWriter:
        folder = self._reader.folder
        _ = self._reader.facts  # NotFound before a lock file is made
        self._lock = (folder / LOCK).open("ab")
        try:
            self._take(self._lock)
            self._reader.view()
            if not os.path.samestat(os.fstat(self._lock.fileno()), (folder / LOCK).stat()):
                raise NotFound(f"gallery {folder.name}: deleted and made anew meanwhile", hint="try again")
            self._cut_torn_record()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._lock is not None
        try:
            if self._reader.position > SNAPSHOT_AFTER_BYTES and self._reader.folder.is_dir():
                self.compact()
        finally:
            self._lock.close()

    def enrol(
        self, subject: str, samples: Sequence[NewSample], *, fingerprint: str, label: str = "", replace: bool = False
    ) -> list[int]:
        """Add samples to a subject; `replace`: instead of those it had, in one step. Returns their numbers.

        Raises GalleryMismatch where another chain of models made the gallery's vectors, ParameterInvalid.
        """
        labels, old = {subject: label} if label else {}, (subject,) if replace else ()
        pairs = [(subject, sample) for sample in samples]
        return self.enrol_many(pairs, fingerprint=fingerprint, labels=labels, replace=old)

    def enrol_many(
        self, samples: Sequence[tuple[str, NewSample]], *, fingerprint: str, labels: Mapping[str, str] | None = None,
        replace: Sequence[str] = (),
    ) -> list[int]:  # fmt: skip
        """Samples of several subjects: all of them or none."""
        vectors = [self._vector(sample) for _, sample in samples]
        if not vectors:
            raise ParameterInvalid("enrol: expected at least one sample, got none")
        self._stamp(len(vectors[0]), fingerprint)
        first = self._reader.next_sample
        ops: list[dict[str, Any]] = [{"op": "drop", "subject": checked_subject(s)} for s in replace]
        for number, (subject, sample) in enumerate(samples, first):
            ops.append({"op": "add", "sample": number, "subject": checked_subject(subject), "about": sample.about})
        ops += [_label(subject, label) for subject, label in (labels or {}).items()]
        self._append(Change(tuple(ops), np.stack(vectors)))
        return list(range(first, first + len(vectors)))

    def relabel(self, subject: str, label: str) -> None:
        """Another label for a subject. NotFound."""
        self._known(subject)
        self._append(Change((_label(subject, label),)))

    def remove(self, subject: str) -> None:
        """A subject with all its samples. NotFound."""
        self._known(subject)
        self._append(Change(({"op": "drop", "subject": subject},)))

    def remove_sample(self, sample: int) -> None:
        """One sample. NotFound."""
        view = self._reader.view()
        if sample not in view.sample[view.alive]:
            raise NotFound(f"gallery {self._reader.folder.name}: no sample {sample}")
        self._append(Change(({"op": "drop_sample", "sample": sample},)))

    def set_facts(self, facts: Facts) -> None:
        """Replace the gallery's record (threshold, margin ...)."""
        write_facts(self._reader.folder, facts)

    def compact(self) -> None:
        """Make a snapshot of everything and begin a new journal."""
        self._write(lambda: snapshot.write(self._reader.folder, self._reader.number + 1, self._reader.view(),
                                           self._reader.next_sample))  # fmt: skip

    def _take(self, lock: BinaryIO) -> None:
        left = self._wait_s
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if left <= 0:
                    name = self._reader.folder.name
                    raise GalleryBusy(f"gallery {name}: another writer holds it", hint="try again") from None
                self._pause(0.01)
                left -= 0.01

    def _cut_torn_record(self) -> None:
        path = self._journal()
        if path.stat().st_size > self._reader.position:
            self._write(lambda: os.truncate(path, self._reader.position))

    def _journal(self) -> Path:
        return snapshot.journal_path(self._reader.folder, self._reader.number)

    def _append(self, change: Change) -> None:
        path = self._journal()

        def write() -> None:
            with path.open("ab") as file:
                journal.append(file, [change])

        try:
            self._write(write)
        except GalleryNotWritten:
            os.truncate(path, self._reader.position)
            raise

    def _write(self, step: Callable[[], None]) -> None:
        try:
            step()
        except OSError as error:
            name = self._reader.folder.name
            raise GalleryNotWritten(
                f"gallery {name}: cannot be written: {error.strerror}", hint="free space"
            ) from error

    def _vector(self, sample: NewSample) -> FloatArray:
        try:
            vector = unit(sample.vector)
        except ValueError as error:
            raise ParameterInvalid(f"embedding: {error}") from error
        if len(vector) > MAX_DIMENSION:
            raise ParameterInvalid(f"embedding: expected at most {MAX_DIMENSION} numbers, got {len(vector)}")
        return vector

    def _stamp(self, dimension: int, fingerprint: str) -> None:
        facts = self._reader.facts
        if not len(self._reader.view()):
            if (facts.dimension, facts.fingerprint) != (dimension, fingerprint):
                if len(self._reader.view().alive):
                    self.compact()  # no dead vector of another length stays
                self.set_facts(facts.stamped(dimension, fingerprint))
            return
        check_chain(facts, fingerprint)
        if facts.dimension != dimension:
            raise GalleryMismatch(f"gallery {facts.name}: expected {facts.dimension} numbers, got {dimension}")

    def _known(self, subject: str) -> None:
        if subject not in self._reader.view().counts():
            raise NotFound(f"gallery {self._reader.folder.name}: no subject {subject[:80]!r}")


def check_chain(facts: Facts, fingerprint: str) -> None:
    """GalleryMismatch where the vectors of a gallery were made by another chain of models than `fingerprint`'s."""
    if facts.fingerprint and facts.fingerprint != fingerprint:
        raise GalleryMismatch(
            f"gallery {facts.name}: its vectors were made by the chain {facts.fingerprint[:12]}, this is "
            f"{fingerprint[:12]}; cosines between the two mean nothing",
            hint="enrol its subjects anew, or serve the models it was made with",
        )


def _label(subject: str, label: str) -> dict[str, Any]:
    if len(label) > MAX_LABEL or any(ord(c) < 32 for c in label):
        raise ParameterInvalid(f"label: expected at most {MAX_LABEL} printable characters, got {label[:60]!r}")
    return {"op": "label", "subject": checked_subject(subject), "label": label}
