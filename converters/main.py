"""The whole way of a checkpoint, forward only, readable in `convert`.

    from converters.main import convert, certify
    result = convert(Path("models/digits.yaml"), settings=settings, limit=None, target="cpu", progress=say)
    result.certificate   the certificate's document: verdict, statement, rows ...
    result.version_dir   the published version's folder; the work folder with the failed certificate where it failed
    result.outcome       published, up_to_date or failed; certified for `certify`
    result.failed_stage  the first stage that failed, '' where none did
    certify("digits", settings=settings, limit=None, target="cpu", server="", progress=say)   see converters.certify

`settings` (serving.config.Settings) gives repository, cache_dir and triton_home; `progress` takes one line at a time.
A failed row is a result (verdict "failed", first failing stage in `statement`), nothing is published. What prevents
rows from being made at all is raised as its ConversionError class, the message naming the stage.
"""

from __future__ import annotations

import sys
from pathlib import Path

from converters.artifacts import Computed, computed_by_checkpoint, graphs, openvino
from converters.assemble import assemble
from converters.certify import certify
from converters.config_ensemble import publish_ensemble
from converters.meter import Say
from converters.pipeline import convert_pipeline
from converters.proof import (
    Proof,
    before_the_network,
    cpu_engine_rows,
    fact_rows,
    fast_row,
    graph_rows,
    libraries,
    require_device,
    tensorrt_row,
)
from converters.publish import model_lock, next_version, publish, published_as, staging
from converters.record import ConvertResult, document_of, write_certificate
from converters.served import served_rows
from converters.sources import Sources, gather
from converters.work_folder import WorkFolder
from serving.bundle import ModelBundle, read_certificate
from serving.config import Settings
from serving.spec import ModelSpec

__all__ = ["ConvertResult", "certify", "convert", "prove"]


def to_stderr(line: str) -> None:
    """One progress line."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def convert(
    spec_path: Path, *, settings: Settings, limit: int | None = None, target: str = "cpu", progress: Say = to_stderr
) -> ConvertResult:
    """Checkpoint -> ONNX -> half precision -> engines -> rows -> staging -> certificate -> repository.

    Raises SpecInvalid, ImportFailed, CheckpointRefused, KeysMismatch, NotFrozen, OperatorUnsupported, BuildFailed,
    ConversionBusy, StorageFailed. Nothing half-made becomes visible; a second call goes on where the first stopped.
    """
    spec = ModelSpec.read(spec_path)
    if spec.steps:
        return convert_pipeline(spec, spec_path, settings=settings, limit=limit, target=target, progress=progress)
    sources = gather(spec_path, settings.cache_dir, limit, target, progress)
    if target == "gpu":
        require_device()
    name, repository = sources.spec.name, settings.repository.resolve()
    with model_lock(repository, name):
        if (done := published_as(repository, name, sources.content_sha256, target)) is not None:
            progress(f"{name}: version {done.name} is up to date")
            return ConvertResult("up_to_date", read_certificate(done, target)[0], done)
        work = WorkFolder.of(settings.cache_dir, name, sources.content_sha256)
        computed = computed_by_checkpoint(sources, work, progress)
        reports = graphs(sources, computed, work, progress)
        if "openvino" in sources.spec.engines:
            openvino(sources, work, progress)
        proof = prove(sources, computed, work, progress)
        with staging(repository, name, next_version(repository, name, sources.spec.version)) as staged:
            manifest = assemble(staged, work.path, sources, proof)
            proof.rows += served_rows(staged, sources, computed, proof, settings, progress)
            document = document_of(sources, computed, proof, int(staged.name), manifest, reports)
            if document["verdict"] != "passed":
                write_certificate(document, sources, work.path)
                return ConvertResult("failed", document, work.path)
            write_certificate(document, sources, staged)
            progress(f"publish {name} version {staged.name}")
            final = publish(staged, repository, target)
            if target == "gpu" and sources.spec.task != "raw":
                progress(f"ensemble in {publish_ensemble(ModelBundle.load(final, target), repository)}")
            return ConvertResult("published", document, final)


def prove(sources: Sources, computed: Computed, work: WorkFolder, say: Say) -> Proof:
    """Every row that needs no server, in the order of the data's way."""
    proof = Proof(rows=before_the_network(sources, computed))
    place = len(proof.rows)
    graph_rows(sources, computed, work.path, proof, say)
    cpu_engine_rows(sources, computed, work.path, proof, say)
    proof.rows.insert(place, fast_row(sources, computed, work.path, proof))
    for library in libraries(sources.spec, sources.target):
        tensorrt_row(sources, computed, work, library, proof, say)
    proof.rows += fact_rows(sources, computed)
    return proof
