"""Everything a conversion starts from, gathered and hashed: spec, checkpoint, samples, labels, code.

The parent process reads these as bytes only; nothing of them is executed here.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from converters.certificate import machine, tools
from converters.digest import external_files
from converters.local_code import code_of
from converters.rows_facts import check_expected
from converters.rows_gates import check_gates
from converters.samples import Sample, SampleSet, labels_of, read_samples
from serving.bundle import sha256_of
from serving.errors import CheckpointRefused, ImportFailed, SpecInvalid
from serving.spec import ModelSpec
from serving.tasks import task_named
from serving.tasks.base import Task, check_thresholds

Progress = Callable[[str], None]
_ROOT = Path(__file__).resolve().parents[1]
# Code that decides what a version computes: its hash is part of a version's content.
_CODE = ("converters", "serving/preprocess", "serving/tasks", "serving/engines", "serving/served_model.py",
         "serving/sequences.py", "serving/hearing.py",
         "serving/backend.py", "serving/spec.py", "serving/types.py", "serving/triton")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sources:
    """The inputs of one conversion. `content_sha256` changes when anything that could change the result changes.

    external: SHA-256 of the files that an ONNX checkpoint keeps its weights in, by name.
    """

    spec: ModelSpec
    spec_path: Path
    task: Task
    checkpoint: Path
    checkpoint_sha256: str
    labels: tuple[str, ...]
    samples: SampleSet
    limit: int | None
    target: str
    content_sha256: str
    cache: Path
    external: Mapping[str, str] = field(default_factory=dict)


def gather(spec_path: Path, cache: Path, limit: int | None, target: str, progress: Progress) -> Sources:
    """Read the spec and bring what it names. Raises SpecInvalid, ImportFailed and what an importer raises."""
    spec = ModelSpec.read(spec_path)
    if spec.steps:
        raise SpecInvalid(f"{spec.name}: a pipeline is certified by `lockstep convert {spec_path}`, as a whole")
    task = task_of(spec)
    folder = spec_path.resolve().parent
    checkpoint, sample_folder = _brought(spec, folder, cache, progress)
    if not checkpoint.is_file():
        raise SpecInvalid(
            f"{spec.name}: checkpoint.path: {checkpoint} does not exist", hint="paths are relative to the YAML"
        )
    checkpoint_sha256 = sha256_of(checkpoint)
    if spec.checkpoint.sha256 not in (None, checkpoint_sha256):
        raise CheckpointRefused(
            f"{spec.name}: checkpoint.sha256: expected {spec.checkpoint.sha256}, {checkpoint} has {checkpoint_sha256}",
            hint="the file is not the one that the spec was written for",
        )
    samples = read_samples(spec, sample_folder, limit)
    labels = spec.label_names(folder)
    check_expected(task, spec, labels_of(samples, labels), labels)
    spec = spec.with_class_ids(labels)
    sources = Sources(
        spec, spec_path, task, checkpoint, checkpoint_sha256, labels, samples, limit, target, "", cache,
        external=_external(checkpoint) if spec.checkpoint.format == "onnx" else {},
    )  # fmt: skip
    return replace(sources, content_sha256=_content(sources))


def task_of(spec: ModelSpec) -> Task:
    """The task, which takes the spec's options, thresholds and gates. Raises SpecInvalid."""
    task = task_named(spec.task)
    task.check(spec)
    check_thresholds(task, spec)
    check_gates(task, spec)
    return task


def of_pictures(sources: Sources, paths: Sequence[Path]) -> Sources:
    """The same model, to be asked for other pictures than its samples, in the order given."""
    samples = SampleSet(tuple(Sample(str(path), path, path.read_bytes()) for path in paths), labelled=False)
    sources = replace(sources, samples=samples)
    return replace(sources, content_sha256=_content(sources))


def _brought(spec: ModelSpec, folder: Path, cache: Path, progress: Progress) -> tuple[Path, Path]:
    """Checkpoint and samples folder: the spec's own paths, else what the importer brings."""
    checkpoint = folder / spec.checkpoint.path if spec.checkpoint.path else None
    samples = folder / spec.parity.samples if spec.parity.samples else None
    if spec.importer is not None and (checkpoint is None or samples is None):
        module, _, function = spec.importer.partition(":")
        try:
            bring = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise ImportFailed(f"{spec.name}: importer {spec.importer}: {error}") from error
        brought = bring(cache, progress)
        checkpoint, samples = checkpoint or brought.checkpoint, samples or brought.samples
    if checkpoint is None:
        raise SpecInvalid(
            f"{spec.name}: checkpoint.path is missing", hint="name the file, or an importer that brings it"
        )
    if samples is None:
        raise SpecInvalid(f"{spec.name}: parity.samples is missing", hint="a folder of 32 or more real samples")
    return checkpoint, samples


def _external(model: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in external_files(model)}


def _reference(spec: ModelSpec, folder: Path) -> dict[str, str]:
    """What `parity.reference` names, with the files that it keeps its weights in. Raises SpecInvalid."""
    if spec.parity.reference is None:
        return {}
    path = folder / spec.parity.reference
    if not path.is_file():
        raise SpecInvalid(
            f"{spec.name}: parity.reference: {path} does not exist", hint="paths are relative to the YAML"
        )
    return {path.name: sha256_of(path), **_external(path)}


def _content(sources: Sources) -> str:
    spec, folder = sources.spec, sources.spec_path.resolve().parent
    named = [spec.factory.callable if spec.factory else "", spec.parity.training_side or ""]
    named += [spec.constants.source or "", spec.constants.labels_source or ""]
    told = {
        "spec": spec.model_dump(mode="json"),
        "checkpoint": sources.checkpoint_sha256,
        "external": dict(sources.external),
        "samples": [(s.name, s.sha256, s.label) for s in sources.samples.samples],
        "labels": sources.labels,
        "target": sources.target,
        "tools": tools(),
        "isa": machine()["isa"],
        "reference": _reference(spec, folder),
        "code": [*((name, sha256_of(path)) for name, path in _own_code()), *code_of(filter(None, named), folder)],
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _own_code() -> Iterator[tuple[str, Path]]:
    for part in _CODE:
        path = _ROOT / part
        found = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        yield from ((os.fspath(p.relative_to(_ROOT)), p) for p in found)


def spec_sha256(spec: ModelSpec) -> str:
    """Of the spec in its canonical JSON form: comments and order of keys do not count."""
    return hashlib.sha256(json.dumps(spec.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
