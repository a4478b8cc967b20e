"""The real samples of a certificate: files as they are on disk, in a fixed order, with their labels and hashes."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from converters.signature import network_inputs
from serving.errors import InputError, SpecInvalid
from serving.preprocess.audio import windows_of
from serving.preprocess.decode import decode
from serving.preprocess.reference import Prepared, prepare
from serving.spec import ModelSpec, PreprocessSpec, SoundSpec
from serving.spec_files import text_of
from serving.types import DATATYPES, UNKNOWN, UNKNOWN_LABEL, Array

SOUNDS = (".wav", ".flac")
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
ENOUGH = 32


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample: a picture's bytes, or a raw model's named tensors. `label` as the label file has it, None without."""

    name: str
    path: Path
    data: bytes
    label: str | None = None

    @property
    def sha256(self) -> str:
        """Of the file's bytes, in hex."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class SampleSet:
    """Samples in the order of their names. `labels` is None where the spec has no label file."""

    samples: tuple[Sample, ...]
    labelled: bool

    @property
    def names(self) -> tuple[str, ...]:
        """File names."""
        return tuple(s.name for s in self.samples)

    @property
    def weak(self) -> bool:
        """Too few to show much (design.md section 4)."""
        return len(self.samples) < ENOUGH

    def __len__(self) -> int:
        return len(self.samples)


def read_samples(spec: ModelSpec, folder: Path, limit: int | None = None) -> SampleSet:
    """The samples below `folder`: pictures, sounds where the spec has `sound`, or for task raw one `.npz` a sample.
    `limit` takes evenly spaced ones.

    Raises SpecInvalid: no folder, no samples, a label file that names a file or a class that is not there.
    """
    kinds = (".npz",) if spec.task == "raw" else SOUNDS if spec.sound is not None else PICTURES
    if not folder.is_dir():
        raise SpecInvalid(f"{spec.name}: parity.samples: {folder} is not a folder", hint="a folder of real samples")
    paths = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in kinds)
    if not paths:
        raise SpecInvalid(f"{spec.name}: parity.samples: no {', '.join(kinds)} files in {folder}")
    labels = _read_labels(spec, folder, {p.name for p in paths})
    if limit is not None and limit < len(paths):
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, limit).round().astype(int).tolist()]
    samples = tuple(Sample(p.name, p, p.read_bytes(), labels.get(p.name)) for p in paths)
    return SampleSet(samples, bool(labels))


def prepare_all(samples: SampleSet, spec: PreprocessSpec) -> list[Prepared]:
    """Decode and prepare every picture by the reference path. SpecInvalid names a sample that is not a picture."""
    prepared = []
    for sample in samples.samples:
        try:
            prepared.append(prepare(decode(sample.data), spec))
        except InputError as error:
            raise SpecInvalid(f"parity.samples: {sample.name}: {error}", hint="remove or replace the file") from error
    return prepared


def hear_all(samples: SampleSet, rule: SoundSpec) -> list[Array]:
    """The windows [t, context + window] of every sound. SpecInvalid names a sample that is no sound."""
    heard = []
    for sample in samples.samples:
        try:
            heard.append(np.concatenate(list(windows_of(sample.data, rule))))
        except InputError as error:
            raise SpecInvalid(f"parity.samples: {sample.name}: {error}", hint="remove or replace the file") from error
    return heard


def read_tensors(samples: SampleSet, spec: ModelSpec) -> list[dict[str, Array]]:
    """The named tensors of a raw model's samples, without a batch axis. SpecInvalid names what does not fit."""
    return [_tensors_of(sample, spec) for sample in samples.samples]


def _tensors_of(sample: Sample, spec: ModelSpec) -> dict[str, Array]:
    try:
        with np.load(io.BytesIO(sample.data), allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, BadZipFile) as error:
        raise SpecInvalid(f"parity.samples: {sample.name}: not an .npz of plain arrays: {error}") from error
    wanted = {declared.name: declared for declared in network_inputs(spec)}
    if found.keys() != wanted.keys():
        raise SpecInvalid(f"parity.samples: {sample.name}: expected tensors {sorted(wanted)}, got {sorted(found)}")
    for name, declared in wanted.items():
        got, kind = found[name], np.dtype(DATATYPES[declared.datatype])
        fits = got.ndim == len(declared.shape) and all(
            have == want or want == -1 or axis in declared.dynamic
            for axis, (have, want) in enumerate(zip(got.shape, declared.shape, strict=True))
        )
        if got.dtype != kind or not fits:
            what = f"expected {declared.datatype} {list(declared.shape)}, got {got.dtype} {list(got.shape)}"
            raise SpecInvalid(f"parity.samples: {sample.name}: {name}: {what}")
    return found


def _read_labels(spec: ModelSpec, folder: Path, files: set[str]) -> Mapping[str, str]:
    if spec.parity.labels is None:
        return {}
    path = folder / spec.parity.labels
    try:
        rows = list(csv.DictReader(io.StringIO(text_of(path, f"{spec.name}: parity.labels"))))
    except csv.Error as error:
        raise SpecInvalid(f"{spec.name}: parity.labels: {path}: {error}") from error
    if not rows or {"file", "label"} - set(rows[0]):
        raise SpecInvalid(f"{spec.name}: parity.labels: {path}: expected a CSV with the columns file,label")
    unknown = sorted({row["file"] for row in rows} - files)
    if unknown:
        raise SpecInvalid(f"{spec.name}: parity.labels: {path} names {unknown[0]}, which is not in {folder}")
    return {row["file"]: row["label"] for row in rows}


def truth(labels: Sequence[str | None], names: Sequence[str]) -> list[str | None]:
    """Label texts as class ids where they are class names (several: `cat;dog`); other texts stay as they are."""
    ids = {name: str(index) for index, name in enumerate(names)} | {UNKNOWN_LABEL: str(UNKNOWN)}
    return [None if label is None else ids.get(label) or _each(label, ids) for label in labels]


def labels_of(samples: SampleSet, names: Sequence[str]) -> dict[str, str | None]:
    """The label of every sample by its name, as `truth` gives it."""
    return dict(zip(samples.names, truth([s.label for s in samples.samples], names), strict=True))


def _each(label: str, ids: Mapping[str, str]) -> str:
    return ";".join(ids.get(part.strip(), part.strip()) for part in label.split(";"))
