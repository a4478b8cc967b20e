"""A pipeline becomes a version like any other: checked steps over certified models, proven through Triton and gateway.

Nothing is computed anew: the models' own certificates are named in the row `models`. What this certificate adds is that
the steps fit, and that the served pipeline answers as the same steps in this process do.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from converters.assemble import MODEL_PY
from converters.certificate import Subject, certificate, tools
from converters.config_pbtxt import config_pbtxt
from converters.meter import Say
from converters.parity import StageRow, failed
from converters.proof import Proof
from converters.publish import (
    CONFIG,
    model_lock,
    next_version,
    publish,
    published_as,
    staging,
    write_file,
    write_manifest,
)
from converters.record import ConvertResult, write_certificate
from converters.rows_facts import check_expected, expected_score_row, memory_row
from converters.runners import LocalRunner
from converters.samples import read_samples
from converters.served import server_rows
from converters.sources import Sources, spec_sha256
from serving.backend import open_pipeline
from serving.bundle import SPEC, ModelBundle, catalogue, read_certificate
from serving.config import Settings
from serving.errors import LockstepError, SpecInvalid
from serving.pipelines import Part, Plan
from serving.spec import ModelSpec
from serving.tasks import task_named
from serving.types import TaskResult

COMPARED = "each step's model by its own certificate"
_ROOT = Path(__file__).resolve().parents[1]
_CODE = ("serving/pipelines", "serving/gallery", "serving/tasks", "serving/pitch",
         "serving/preprocess", "serving/backend.py",
         "serving/spec.py", "serving/spec_steps.py")  # fmt: skip


def convert_pipeline(
    spec: ModelSpec, spec_path: Path, *, settings: Settings, limit: int | None, target: str, progress: Say
) -> ConvertResult:
    """Check, stage, prove, publish. Raises SpecInvalid where a model is not there or the steps do not fit."""
    repository = settings.repository.resolve()
    task_named(spec.task).check(spec)
    models = models_of(spec, repository, target)
    plan = Plan.of(spec, {name: Part.of(bundle) for name, bundle in models.items()})
    sources = _gather(spec, spec_path, plan, models, settings, limit, target, progress)
    with model_lock(repository, spec.name):
        if (done := published_as(repository, spec.name, sources.content_sha256, target)) is not None:
            progress(f"{spec.name}: version {done.name} is up to date")
            return ConvertResult("up_to_date", read_certificate(done, target)[0], done)
        with (
            staging(repository, spec.name, next_version(repository, spec.name, spec.version)) as staged,
            tempfile.TemporaryDirectory(prefix="lockstep-galleries-") as none,
        ):
            manifest = _assemble(staged, sources, models)
            private = settings.model_copy(update={"galleries": Path(none)})  # the user's galleries are not part of it
            rows = _rows(staged, sources, models, private, progress)
            document = _document(sources, rows, int(staged.name), manifest, spec)
            if document["verdict"] != "passed":
                work = settings.cache_dir.resolve() / "failed" / spec.name
                work.mkdir(parents=True, exist_ok=True)
                write_certificate(document, sources, work)
                return ConvertResult("failed", document, work)
            write_certificate(document, sources, staged)
            progress(f"publish {spec.name} version {staged.name}")
            return ConvertResult("published", document, publish(staged, repository, target))


def models_of(spec: ModelSpec, repository: Path, target: str) -> dict[str, ModelBundle]:
    """The published versions of the steps' models. SpecInvalid names one that is not there, or may not be served."""
    good, bad = catalogue(repository, target)
    found = {}
    for step in spec.steps:
        if step.model is None:
            continue
        if step.model not in good:
            why = str(bad.get(step.model, f"not in {repository}"))
            raise SpecInvalid(f"{spec.name}: steps.{step.name}.model: {step.model}: {why}",
                              hint=f"convert it first: lockstep convert models/{step.model}.yaml")  # fmt: skip
        found[step.model] = good[step.model]
    return found


def _gather(
    spec: ModelSpec, spec_path: Path, plan: Plan, models: dict[str, ModelBundle], settings: Settings,
    limit: int | None, target: str, progress: Say,
) -> Sources:  # fmt: skip
    samples = read_samples(spec, _sample_folder(spec, spec_path, settings, progress), limit)
    rows = spec.answer.detections
    labels = plan.parts[rows].labels if rows is not None else spec.label_names(spec_path.resolve().parent)
    task = task_named(spec.task)
    check_expected(task, spec, {s.name: s.label for s in samples.samples}, labels)
    told = {
        "spec": spec.model_dump(mode="json"),
        "models": {name: bundle.certificate_id for name, bundle in models.items()},
        "samples": [(s.name, s.sha256, s.label) for s in samples.samples],
        "tools": tools(),
        "code": [hashlib.sha256(path.read_bytes()).hexdigest() for path in _code()],
        "target": target,
    }
    content = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return Sources(spec, spec_path, task, spec_path, "", labels, samples, limit, target, content, settings.cache_dir)


def _sample_folder(spec: ModelSpec, spec_path: Path, settings: Settings, progress: Say) -> Path:
    if spec.parity.samples is not None:
        return spec_path.resolve().parent / spec.parity.samples
    if spec.importer is None:
        raise SpecInvalid(f"{spec.name}: parity.samples is missing", hint="a folder of 32 or more real pictures")
    module, _, function = spec.importer.partition(":")
    folder: Path = getattr(importlib.import_module(module), function)(settings.cache_dir, progress).samples
    return folder


def _code() -> list[Path]:
    found = [_ROOT / part for part in _CODE]
    return sorted(p for path in found for p in (path.rglob("*.py") if path.is_dir() else [path]))


def _assemble(staged: Path, sources: Sources, models: dict[str, ModelBundle]) -> str:
    document = {
        "schema": 1,
        "spec": sources.spec.model_dump(mode="json"),
        "labels": list(sources.labels),
        "engine": "pipeline",
        "precision": ", ".join(sorted({bundle.precision for bundle in models.values()})) or "none",
        "threads": sources.spec.serving.threads,
        "signature": {"inputs": [], "outputs": []},
        "models": {n: {"version": b.version, "certificate_id": b.certificate_id} for n, b in models.items()},
    }
    write_file(staged / "model.py", MODEL_PY)
    write_file(staged / SPEC, json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n")
    config = config_pbtxt(sources.spec, (), int(staged.name)).encode()
    write_file(staged / CONFIG, config)
    write_file(staged.parent / CONFIG, config)
    return write_manifest(staged)


def _rows(
    staged: Path, sources: Sources, models: dict[str, ModelBundle], settings: Settings, say: Say
) -> list[StageRow]:
    figures = {name: f"version {b.version}, certificate {b.certificate_id}" for name, b in models.items()}
    proof = Proof(rows=[StageRow("models", "passed", COMPARED, figures=figures, samples=len(models))])
    with closing(open_pipeline(ModelBundle.staging(staged), settings, sources.target)) as model:
        local = LocalRunner(model)
        served, peak = server_rows(staged, sources, proof, local, settings, say)
        return [*proof.rows, *served, _score(sources, local), memory_row(peak)]


def _score(sources: Sources, local: LocalRunner) -> StageRow:
    spec, labelled = sources.spec, [s for s in sources.samples.samples if s.label is not None]
    if not labelled or spec.expect is None:
        return expected_score_row(sources.task, spec, spec.expect, [] if labelled else None, [], [])
    try:
        answers: list[TaskResult] = [local.ask(sample, {}).result for sample in labelled]
    except LockstepError as error:
        return failed("expected_score", "the served pipeline against the samples' labels", str(error))
    # A pipeline has no checkpoint of its own: both sides of the row are the served one.
    labels = [str(sample.label) for sample in labelled]
    return expected_score_row(sources.task, spec, spec.expect, labels, answers, answers)


def _document(sources: Sources, rows: list[StageRow], version: int, manifest: str, spec: ModelSpec) -> dict[str, Any]:
    peak = next((row.figures.get("peak_rss_bytes", 0) for row in rows if row.stage == "memory"), 0)
    samples = [{"name": s.name, "sha256": s.sha256} for s in sources.samples.samples]
    subject = Subject(
        model=spec.name, version=version, target=sources.target, engine="pipeline", precision="of its models",
        shipped=spec.shipped, weak=sources.samples.weak, limit=sources.limit, content_sha256=sources.content_sha256,
        manifest_sha256=manifest, checkpoint_sha256="", spec_sha256=spec_sha256(spec), samples=samples,
        peak_rss_bytes=int(peak), notes=["the models' own certificates prove what each step computes"],
    )  # fmt: skip
    return certificate(subject, rows)
