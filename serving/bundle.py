"""A published version on disk: what it is, and the proof that nothing in it changed since it was certified.

`model_repository/<model>/<version>/` holds `spec.json`, the artifacts, `manifest.json` (SHA-256 of each file) and
`certificate.<target>.json`, which names the manifest's own SHA-256. Nothing loads without a passed certificate.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from serving.errors import CertificateRefused, NotFound
from serving.spec import EngineName, ModelSpec
from serving.types import InferResponse, TensorSpec

SPEC, MANIFEST = "spec.json", "manifest.json"
UNCERTIFIED = "uncertified"  # certificate_id of a staged version


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class ModelBundle:
    """One version of one model, ready to be served."""

    spec: ModelSpec
    labels: tuple[str, ...]
    version: int
    version_dir: Path
    certificate_id: str
    engine: EngineName | Literal["pipeline"]
    precision: str
    threads: int
    engine_inputs: tuple[TensorSpec, ...]
    engine_outputs: tuple[TensorSpec, ...]

    @property
    def name(self) -> str:
        """The model's name."""
        return self.spec.name

    def document(self, response: InferResponse, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The result document (docs/results.schema.json) of one response; fields: the task's own."""
        image = response.image
        return {
            "schema": 1,
            "model": self.name,
            "model_version": str(self.version),
            "certificate_id": self.certificate_id,
            "task": self.spec.task,
            **({"image": {"width": image.width, "height": image.height}} if image else {}),
            **fields,
            "timings_ms": {name: round(ms, 3) for name, ms in response.timings_ms.items()},
            # Told in staging only: the certificate's rows `server` and `gateway` prove with it whose pixels were seen.
            **({"pixels_sha256": response.pixels_sha256} if self.certificate_id == UNCERTIFIED else {}),
        }

    @classmethod
    def load(cls, version_dir: Path, target: str = "cpu") -> ModelBundle:
        """Read a certified version. Raises CertificateRefused: missing, failed, or a hash that differs."""
        certificate, certificate_id = read_certificate(version_dir, target)
        if certificate.get("verdict") != "passed":
            failed = [r["stage"] for r in certificate.get("rows", []) if r.get("status") == "failed"]
            raise CertificateRefused(
                f"{version_dir}: certificate.{target}.json says {certificate.get('verdict')!r}; failed: {failed}",
                hint="run `lockstep convert` again and read the certificate",
            )
        verify_manifest(version_dir, str(certificate.get("manifest_sha256")))
        return cls._read(version_dir, certificate_id)

    @classmethod
    def staging(cls, version_dir: Path) -> ModelBundle:
        """The same without a certificate: for the private staging Triton of the converter only."""
        return cls._read(version_dir, UNCERTIFIED)

    @classmethod
    def _read(cls, version_dir: Path, certificate_id: str) -> ModelBundle:
        try:
            document = json.loads((version_dir / SPEC).read_bytes())
            signature = document["signature"]
            return cls(
                spec=ModelSpec.model_validate(document["spec"]),
                labels=tuple(document["labels"]),
                version=int(version_dir.name),
                version_dir=version_dir,
                certificate_id=certificate_id,
                engine=document["engine"],
                precision=document["precision"],
                threads=int(document["threads"]),
                engine_inputs=tuple(_tensor(t) for t in signature["inputs"]),
                engine_outputs=tuple(_tensor(t) for t in signature["outputs"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CertificateRefused(
                f"{version_dir / SPEC}: cannot be read: {error}", hint="convert it again"
            ) from error


def _tensor(document: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(document["name"], document["datatype"], tuple(document["shape"]))


def read_certificate(version_dir: Path, target: str = "cpu") -> tuple[dict[str, Any], str]:
    """The certificate of a target and its id (12 hex of the file's SHA-256); CertificateRefused where there is none."""
    path = version_dir / f"certificate.{target}.json"
    try:
        data = path.read_bytes()
        document: dict[str, Any] = json.loads(data)
    except FileNotFoundError as error:
        raise CertificateRefused(
            f"{version_dir}: no certificate for target {target}", hint="no certificate, no load"
        ) from error
    except (OSError, ValueError) as error:
        raise CertificateRefused(f"{path}: cannot be read: {error}") from error
    return document, hashlib.sha256(data).hexdigest()[:12]


def verify_manifest(version_dir: Path, expected_sha256: str) -> None:
    """Every file is the certified one, none is missing and none is new. Raises CertificateRefused naming the file."""
    manifest = version_dir / MANIFEST
    if not manifest.is_file() or sha256_of(manifest) != expected_sha256:
        raise CertificateRefused(f"{manifest}: not the manifest that was certified", hint="convert it again")
    files: Mapping[str, str] = json.loads(manifest.read_bytes())["files"]
    for name, digest in files.items():
        path = version_dir / name
        if path.is_symlink() or not path.is_file() or sha256_of(path) != digest:
            raise CertificateRefused(f"{path}: missing or changed since it was certified", hint="convert it again")
    known = {*files, MANIFEST}
    for path in version_dir.iterdir():
        # Nothing of ours reads __pycache__ here: the embedded Triton is shown files, one by one.
        expected = path.name in known or path.name.startswith(("certificate.", "tuning.")) or path.name == "__pycache__"
        if not expected:
            raise CertificateRefused(f"{path}: not part of the certified version", hint="remove it or convert again")


def read_pinned(version_dir: Path, target: str = "cpu") -> list[ModelBundle]:
    """The models of a pipeline's version, exactly those it was certified with. Raises CertificateRefused."""
    try:
        pinned: Mapping[str, Any] = json.loads((version_dir / SPEC).read_bytes())["models"]
    except (OSError, ValueError, KeyError) as error:
        raise CertificateRefused(f"{version_dir / SPEC}: cannot be read: {error}", hint="convert it again") from error
    found = []
    for name, told in pinned.items():
        # Beside the pipeline; a staged one lies a few folders below.
        places = [folder / name / str(told["version"]) for folder in version_dir.parents[1:5]]
        place = next((place for place in places if (place / SPEC).is_file()), places[0])
        bundle = ModelBundle.load(place, target)
        if bundle.certificate_id != told["certificate_id"]:
            raise CertificateRefused(
                f"{version_dir.parent.name}: was certified with {name} {told['version']} (certificate "
                f"{told['certificate_id']}), which has the certificate {bundle.certificate_id} now",
                hint="convert the pipeline again",
            )
        found.append(bundle)
    return found


def versions_of(repository: Path, name: str) -> list[Path]:
    """Version folders of a model, newest first."""
    folder = repository / name
    found = [p for p in folder.iterdir() if p.is_dir() and p.name.isdigit()] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(p.name), reverse=True)


def newest_certified(repository: Path, name: str, target: str = "cpu") -> ModelBundle:
    """The newest servable version of a model; no other model's files are read.

    Raises CertificateRefused with the reason where it has none, NotFound for a name that the repository does not hold.
    """
    names = _names(repository)
    if name not in names:
        spec = f"models/{name}.yaml"
        hint = f"lockstep convert {spec}" if Path(spec).is_file() else "`lockstep convert` publishes one"
        raise NotFound(f"{repository}: there is no model {name}; there are: {', '.join(names) or 'none'}", hint=hint)
    refused = []
    for version_dir in versions_of(repository, name):
        try:
            return ModelBundle.load(version_dir, target)
        except CertificateRefused as error:
            refused.append(error)
    raise refused[0]


def catalogue(repository: Path, target: str = "cpu") -> tuple[dict[str, ModelBundle], dict[str, CertificateRefused]]:
    """Every model's newest servable version, and for the others the reason why not."""
    good: dict[str, ModelBundle] = {}
    bad: dict[str, CertificateRefused] = {}
    for name in _names(repository):
        try:
            good[name] = newest_certified(repository, name, target)
        except CertificateRefused as error:
            bad[name] = error
    return good, bad


def _names(repository: Path) -> list[str]:
    folders = sorted(p.name for p in repository.iterdir() if p.is_dir()) if repository.is_dir() else []
    return [name for name in folders if versions_of(repository, name)]
