"""Samples on disk: an npz with one entry `<index>/<name>` a sample and tensor, so that sizes may differ. No pickles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from serving.errors import ConversionError
from serving.types import Array

Sample = Mapping[str, Array]


def save_samples(path: Path, samples: Sequence[Sample]) -> None:
    """Write named arrays per sample (no batch axis). Object arrays are refused: they would need a pickle."""
    entries: dict[str, Array] = {}
    for index, sample in enumerate(samples):
        for name, value in sample.items():
            array = np.asarray(value)
            if array.dtype.hasobject:
                raise ConversionError(f"{path.name}: sample {index}: {name}: expected numbers, got dtype {array.dtype}")
            entries[f"{index:06d}/{name}"] = array
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **entries)


def load_samples(path: Path) -> list[dict[str, Array]]:
    """Read what `save_samples` wrote, in order. Raises ConversionError for anything else."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            found: dict[int, dict[str, Array]] = {}
            for key in archive.files:
                index, name = key.split("/", 1)
                found.setdefault(int(index), {})[name] = archive[key]
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise ConversionError(f"{path}: not an archive of samples: {error}") from error
    return [found[index] for index in sorted(found)]


def batches(samples: Sequence[Sample], size: int) -> Iterator[dict[str, Array]]:
    """Stack neighbours of equal shapes into batches of at most `size` (leading batch axis), in order."""
    group: list[Sample] = []
    for sample in samples:
        if group and (len(group) == size or _shapes(sample) != _shapes(group[0])):
            yield _stack(group)
            group = []
        group.append(sample)
    if group:
        yield _stack(group)


def split(batch: Mapping[str, Array]) -> list[dict[str, Array]]:
    """The samples of a batch, without the batch axis."""
    count = len(next(iter(batch.values())))
    return [{name: array[i] for name, array in batch.items()} for i in range(count)]


def _shapes(sample: Sample) -> dict[str, tuple[int, ...]]:
    return {name: np.shape(array) for name, array in sample.items()}


def _stack(group: Sequence[Sample]) -> dict[str, Array]:
    return {name: np.stack([sample[name] for sample in group]) for name in group[0]}
