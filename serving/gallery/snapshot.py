"""Snapshots: everything up to one moment as arrays that are mapped, not read. `CURRENT` names the one that counts.

snapshot-<n>/vectors.npy owner.npy sample.npy subjects.json [index.usearch index.json]
journal-<n>.bin    what changed since
CURRENT            <n>, replaced by rename when the other two are on the disk
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors_gallery import GalleryDamaged
from serving.gallery.ann import open_index, write_index
from serving.gallery.facts import sync_folder, write_whole
from serving.gallery.view import View

CURRENT = "CURRENT"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot's content: a view without tail, and the number the next sample gets."""

    number: int
    view: View
    next_sample: int


def journal_path(folder: Path, number: int) -> Path:
    """The journal that goes with snapshot `number`."""
    return folder / f"journal-{number}.bin"


def current(folder: Path) -> int:
    """The number in CURRENT. FileNotFoundError where the gallery is gone."""
    text = (folder / CURRENT).read_text("ascii").strip()
    if not text.isdigit():
        raise GalleryDamaged(f"gallery {folder.name}: {CURRENT}: expected a number, got {text[:20]!r}")
    return int(text)


def load(folder: Path, number: int) -> Snapshot:
    """Map a snapshot. FileNotFoundError where it was replaced meanwhile; GalleryDamaged where it does not hold
    together."""
    home = folder / f"snapshot-{number}"
    try:
        told: dict[str, Any] = json.loads((home / "subjects.json").read_bytes())
        base = np.load(home / "vectors.npy", mmap_mode="r", allow_pickle=False)
        owner = np.load(home / "owner.npy", allow_pickle=False)
        sample = np.load(home / "sample.npy", allow_pickle=False)
        subjects = tuple(told["subjects"])
        if not len(base) == len(owner) == len(sample) or (len(owner) and owner.max() >= len(subjects)):
            raise ValueError("its parts have different lengths")
        near = open_index(home, len(base))
        alive = np.ones(len(base), bool)
        tail = np.zeros((0, base.shape[1]), np.float32)
        view = View(base, tail, owner, sample, alive, subjects, told["labels"], near)
        return Snapshot(number, view, int(told["next_sample"]))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GalleryDamaged(f"gallery {folder.name}: snapshot {number}: {error}") from error


def write(folder: Path, number: int, view: View, next_sample: int) -> None:
    """A snapshot of all living samples with an empty journal, then CURRENT; the ones before are removed."""
    home, fresh = folder / f"snapshot-{number}", folder / f"snapshot-{number}.new"
    for old in (home, fresh):
        shutil.rmtree(old, ignore_errors=True)
    fresh.mkdir(parents=True)
    vectors, places = view.vectors()
    kept = np.unique(places)
    names = [view.subjects[place] for place in kept.tolist()]
    labels = {name: view.labels[name] for name in names if name in view.labels}
    told = {"subjects": names, "labels": labels, "next_sample": next_sample}
    (fresh / "subjects.json").write_text(json.dumps(told), "utf-8")
    np.save(fresh / "vectors.npy", vectors)
    np.save(fresh / "owner.npy", np.searchsorted(kept, places).astype(np.int32))
    np.save(fresh / "sample.npy", view.sample[view.alive])
    write_index(fresh, vectors)
    for path in fresh.iterdir():
        _sync(path)
    sync_folder(fresh)
    fresh.replace(home)
    with journal_path(folder, number).open("wb") as file:
        os.fsync(file.fileno())
    sync_folder(folder)
    write_whole(folder / CURRENT, f"{number}\n".encode())
    sweep(folder, number)


def sweep(folder: Path, number: int) -> None:
    """Remove what is not of snapshot `number`: older ones, and what a killed writer left."""
    for path in folder.glob("snapshot-*"):
        if path.name != f"snapshot-{number}":
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob("journal-*.bin"):
        if path != journal_path(folder, number):
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
