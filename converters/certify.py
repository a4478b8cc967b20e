"""The certificate again, of a version that is published: on this machine, on a device, or against a running server.

The reference is computed from the checkpoint as in a conversion (and reused where the work folder still has it); the
files that are judged are the published ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from converters.artifacts import Computed, computed_by_checkpoint
from converters.certificate import certificate_id, encode
from converters.meter import Say
from converters.parity import StageRow, not_run
from converters.proof import (
    TENSORRT,
    Proof,
    before_the_network,
    cpu_engine_rows,
    fact_rows,
    fast_row,
    graph_rows,
    on_device_row,
)
from converters.publish import add_certificate, model_lock
from converters.record import ConvertResult, document_of, pictures_of, write_certificate
from converters.report_html import render
from converters.served import rows_of_running, served_rows
from converters.sources import Sources, gather, spec_sha256
from converters.work_folder import WorkFolder
from serving.bundle import ModelBundle, read_certificate, verify_manifest, versions_of
from serving.config import Settings
from serving.errors import CertificateRefused, NotFound

_ROOT = Path(__file__).resolve().parents[1]
GPU_SERVER = "the server of target gpu is not part of this version"


def certify(
    model: str | Path,
    *,
    settings: Settings,
    limit: int | None = None,
    target: str = "cpu",
    server: str = "",
    progress: Say,
) -> ConvertResult:
    """Re-run the rows of the newest published version of `model` (a name, or the path of its YAML).

    server: '' starts a private Triton and gateway; `http://host:port` asks a running gateway, `grpc://host:port` a
    running Triton, and then no certificate is written into the repository. Otherwise a passed one replaces the old
    file as a whole; a failed one is written to the work folder. Raises NotFound, CertificateRefused where the YAML or
    a file changed since, and what a conversion raises.
    """
    spec_path = find_spec(model)
    sources = gather(spec_path, settings.cache_dir, limit, target, progress)
    repository = settings.repository.resolve()
    with model_lock(repository, sources.spec.name):
        version_dir, old = published(repository, sources)
        work = WorkFolder.of(settings.cache_dir, sources.spec.name, sources.content_sha256)
        computed = computed_by_checkpoint(sources, work, progress)
        proof = prove_again(sources, computed, version_dir, old, progress)
        if server:
            proof.rows += rows_of_running(server, version_dir, sources, computed, proof, settings, progress)
        elif target != "cpu":
            proof.rows += [not_run(stage, "the server of the target", GPU_SERVER) for stage in ("server", "gateway")]
        else:
            proof.rows += served_rows(version_dir, sources, computed, proof, settings, progress)
        manifest, reports = str(old["manifest_sha256"]), {"recertified": version_dir.name}
        document = as_built(document_of(sources, computed, proof, int(version_dir.name), manifest, reports), old)
        if document["verdict"] != "passed" or server:
            write_certificate(document, sources, work.path)
            return ConvertResult("certified" if document["verdict"] == "passed" else "failed", document, work.path)
        data = encode(document)
        page = render(document, certificate_id(data), pictures_of(document, sources))
        add_certificate(version_dir, target, data, page)
        return ConvertResult("certified", document, version_dir)


def find_spec(model: str | Path) -> Path:
    """A YAML as it is, or `models/<name>.yaml` of the working folder or of this project."""
    given = Path(model)
    candidates = [given] if given.suffix in (".yaml", ".yml") else [
        Path("models") / f"{model}.yaml", _ROOT / "models" / f"{model}.yaml"
    ]  # fmt: skip
    for path in candidates:
        if path.is_file():
            return path
    raise NotFound(f"{model}: no YAML at {', '.join(map(str, candidates))}", hint="give the path of the model's YAML")


def published(repository: Path, sources: Sources) -> tuple[Path, dict[str, Any]]:
    """The newest version that is certified for the target (else for target cpu), and that certificate.

    Its files are unchanged, and it was made from this very YAML, these labels and this checkpoint. Raises NotFound,
    CertificateRefused.
    """
    name = sources.spec.name
    versions = versions_of(repository, name)
    if not versions:
        raise NotFound(f"{name}: no version in {repository}", hint=f"lockstep convert {sources.spec_path}")
    version_dir, target = _certified(versions, sources.target)
    certificate, _ = read_certificate(version_dir, target)
    verify_manifest(version_dir, str(certificate.get("manifest_sha256")))
    external = certificate.get("conversion", {}).get("external_data", {})
    made_of = (
        (sources.spec_path, certificate.get("spec_sha256") == spec_sha256(sources.spec)),
        (f"{name}: labels", ModelBundle.staging(version_dir).labels == sources.labels),
        (sources.checkpoint, certificate.get("checkpoint_sha256") == sources.checkpoint_sha256),
        (f"{sources.checkpoint}: its external data", external == dict(sources.external)),
    )
    for what, same in made_of:
        if not same:
            raise CertificateRefused(f"{what}: changed since version {version_dir.name} was made of it",
                                     hint=f"lockstep convert {sources.spec_path}")  # fmt: skip
    return version_dir, certificate


def _certified(versions: Sequence[Path], target: str) -> tuple[Path, str]:
    """The version to be certified and the target of the certificate that it has."""
    for wanted in dict.fromkeys((target, "cpu", "gpu")):
        for version_dir in versions:
            if (version_dir / f"certificate.{wanted}.json").is_file():
                return version_dir, wanted
    return versions[0], target


def as_built(document: dict[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """The new certificate's document with what the files were built from and with: no certification changes that."""
    return {
        **document,
        "content_sha256": old["content_sha256"],
        "tools": old["tools"],
        "certified_with": document["tools"],
    }


def prove_again(sources: Sources, computed: Computed, version_dir: Path, old: Mapping[str, Any], say: Say) -> Proof:
    """Rows that need no server, from the published files; the precision is the one that is served."""
    bundle = ModelBundle.staging(version_dir)
    proof = Proof(rows=before_the_network(sources, computed))
    place = len(proof.rows)
    graph_rows(sources, computed, version_dir, proof, say)
    cpu_engine_rows(sources, computed, version_dir, proof, say, served_in=bundle.precision)
    proof.rows.insert(place, fast_row(sources, computed, version_dir, proof))
    for library in (name for name in sources.spec.engines if name in TENSORRT):
        proof.rows.append(on_device_row(sources, computed, version_dir, library, proof, say) or _carried(library, old))
    proof.rows += fact_rows(sources, computed)
    return proof


def _carried(library: str, old: Mapping[str, Any]) -> StageRow:
    """The old certificate's row of an engine that this machine cannot run: read-back dtypes stay true."""
    stage = f"engine_{library}"
    row = next((r for r in old["rows"] if r["stage"] == stage), None)
    if row is None or row["status"] != "not_run":
        reason = f"no device: this machine cannot run {library}"
        return not_run(stage, "engine on a device", reason)
    return replace(not_run(stage, row["compared"], row["reason"]), figures=row["figures"])
