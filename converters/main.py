"""The whole way of a checkpoint, forward only, readable in `convert`.

    from converters.main import convert, certify
    result = convert(Path("models/digits.yaml"), settings=settings, limit=None, target="cpu", progress=say)
    result.certificate   the certificate's document: verdict, statement, rows ...
    result.version_dir   the published version's folder; the work folder with the failed certificate where it failed
    result.outcome       published, up_to_date or failed

`settings` (serving.config.Settings) gives repository, cache_dir and triton_home; `progress` takes one line at a time.
A failed row is a result (verdict "failed", first failing stage in `statement`), nothing is published. What prevents
rows from being made at all is raised as its ConversionError class, the message naming the stage.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from converters.artifacts import Computed, computed_by_checkpoint, graphs, openvino
from converters.assemble import assemble
from converters.certificate import Subject, certificate, certificate_id, encode
from converters.meter import Say
from converters.proof import (
    TENSORRT,
    Proof,
    before_the_network,
    cpu_engine_rows,
    fact_rows,
    fast_row,
    graph_rows,
    sample_record,
    tensorrt_row,
)
from converters.publish import model_lock, next_version, publish, published_as, staging, write_file
from converters.report_html import render
from converters.served import served_rows
from converters.sources import Sources, gather, spec_sha256
from converters.work_folder import WorkFolder
from serving.bundle import read_certificate
from serving.config import Settings

Outcome = Literal["published", "up_to_date", "failed"]


@dataclass(frozen=True, slots=True)
class ConvertResult:
    """The end of a conversion. See the module's text."""

    outcome: Outcome
    certificate: dict[str, Any]
    version_dir: Path

    @property
    def failed_stage(self) -> str:
        """The first stage that failed; '' where none did."""
        return next((row["stage"] for row in self.certificate["rows"] if row["status"] == "failed"), "")


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
    sources = gather(spec_path, settings.cache_dir, limit, target, progress)
    name, repository = sources.spec.name, settings.repository.resolve()
    with model_lock(repository, name):
        if (done := published_as(repository, name, sources.content_sha256, target)) is not None:
            progress(f"{name}: version {done.name} is up to date")
            return ConvertResult("up_to_date", read_certificate(done, target)[0], done)
        work = WorkFolder.of(settings.cache_dir, name, sources.content_sha256)
        computed = computed_by_checkpoint(sources, work, progress)
        reports = graphs(sources, computed, work, progress)
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
            return ConvertResult("published", document, publish(staged, repository, target))


def prove(sources: Sources, computed: Computed, work: WorkFolder, say: Say) -> Proof:
    """Every row that needs no server, in the order of the data's way."""
    proof = Proof(rows=before_the_network(sources, computed))
    place = len(proof.rows)
    graph_rows(sources, computed, work.path, proof, say)
    cpu_engine_rows(sources, computed, work.path, proof, say)
    proof.rows.insert(place, fast_row(sources, computed, work.path, proof))
    for library in (name for name in sources.spec.engines if name in TENSORRT):
        tensorrt_row(sources, computed, work, library, proof, say)
    proof.rows += fact_rows(sources, computed)
    return proof


def document_of(
    sources: Sources, computed: Computed, proof: Proof, version: int, manifest: str, reports: dict[str, Any]
) -> dict[str, Any]:
    """The certificate's document."""
    report = computed.report
    peak = next((row.figures.get("peak_rss_bytes", 0) for row in proof.rows if row.stage == "memory"), 0)
    subject = Subject(
        model=sources.spec.name,
        version=version,
        target=sources.target,
        engine=proof.engine,
        precision=proof.precision,
        shipped=sources.spec.shipped,
        weak=sources.samples.weak,
        limit=sources.limit,
        content_sha256=sources.content_sha256,
        manifest_sha256=manifest,
        checkpoint_sha256=sources.checkpoint_sha256,
        spec_sha256=spec_sha256(sources.spec),
        load_report={n: getattr(report.load, n) for n in report.load.__slots__},
        dtypes=proof.dtypes,
        samples=sample_record(sources.samples, computed),
        peak_rss_bytes=int(peak),
        notes=[*report.notes, *proof.notes],
        conversion={
            "exporter": report.exporter,
            "reference_input": "training side's tensors" if report.training_tensors else "serving/preprocess",
            "versions": dict(report.versions),
            "isolation": dict(report.isolation),
            **reports,
        },
    )
    return certificate(subject, proof.rows)


def write_certificate(document: dict[str, Any], sources: Sources, folder: Path) -> None:
    """certificate.<target>.json and .html."""
    data = encode(document)
    shown = {w["sample"] for row in document["rows"] for w in row["worst"]}
    pictures = {s.name: s.data for s in sources.samples.samples if s.name in shown}
    write_file(folder / f"certificate.{sources.target}.html", render(document, certificate_id(data), pictures))
    write_file(folder / f"certificate.{sources.target}.json", data)
