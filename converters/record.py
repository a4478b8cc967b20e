"""From rows to the certificate's files, and what a conversion answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from converters.artifacts import Computed
from converters.certificate import Subject, certificate, certificate_id, encode
from converters.proof import Proof, sample_record
from converters.publish import write_file
from converters.report_html import render
from converters.sources import Sources, spec_sha256

Outcome = Literal["published", "up_to_date", "certified", "failed"]


@dataclass(frozen=True, slots=True)
class ConvertResult:
    """The end of a conversion or certification.

    certificate: the document; version_dir: the published version's folder, or the work folder that holds
    certificate.<target>.json and .html of one that failed.
    """

    outcome: Outcome
    certificate: dict[str, Any]
    version_dir: Path

    @property
    def failed_stage(self) -> str:
        """The first stage that failed; '' where none did."""
        return next((row["stage"] for row in self.certificate["rows"] if row["status"] == "failed"), "")


def document_of(
    sources: Sources, computed: Computed, proof: Proof, version: int, manifest: str, reports: Mapping[str, Any]
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
        load_report=asdict(report.load),
        dtypes=proof.dtypes,
        samples=sample_record(sources.samples, computed),
        peak_rss_bytes=int(peak),
        notes=[*report.notes, *proof.notes],
        conversion={
            "exporter": report.exporter,
            "reference_input": "training side's tensors" if report.training_tensors else "serving/preprocess",
            "versions": dict(report.versions),
            "isolation": dict(report.isolation),
            "external_data": dict(sources.external),
            **reports,
        },
    )
    return certificate(subject, proof.rows)


def pictures_of(document: Mapping[str, Any], sources: Sources) -> dict[str, bytes]:
    """The samples that the page shows."""
    shown = {worst["sample"] for row in document["rows"] for worst in row["worst"]}
    return {s.name: s.data for s in sources.samples.samples if s.name in shown}


def write_certificate(document: dict[str, Any], sources: Sources, folder: Path) -> None:
    """certificate.<target>.json and .html."""
    data = encode(document)
    page = render(document, certificate_id(data), pictures_of(document, sources))
    write_file(folder / f"certificate.{sources.target}.html", page)
    write_file(folder / f"certificate.{sources.target}.json", data)
