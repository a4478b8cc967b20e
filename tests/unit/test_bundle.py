"""Nothing loads without a passed certificate, and nothing that changed since (S2: plans are executable artifacts)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from serving.bundle import ModelBundle, catalogue, sha256_of
from serving.errors import CertificateRefused

SPEC = {
    "name": "m", "task": "classification", "checkpoint": {"format": "onnx", "path": "m.onnx"},
    "preprocess": {"width": 8, "height": 8},
}  # fmt: skip


def publish(repository: Path, version: int = 1, verdict: str = "passed", **spec: Any) -> Path:
    folder = repository / "m" / str(version)
    folder.mkdir(parents=True)
    signature = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [3, 8, 8]}], "outputs": []}
    document = {"spec": SPEC | spec, "labels": [], "engine": "openvino", "precision": "f32", "threads": 1}
    (folder / "spec.json").write_text(json.dumps(document | {"signature": signature}))
    (folder / "engine.bin").write_bytes(b"weights" * 100)
    files = {name: sha256_of(folder / name) for name in ("spec.json", "engine.bin")}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    certificate = {"verdict": verdict, "manifest_sha256": sha256_of(folder / "manifest.json"), "rows": []}
    (folder / "certificate.cpu.json").write_text(json.dumps(certificate))
    return folder


def test_a_certified_version_loads_with_its_certificates_id(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    bundle = ModelBundle.load(folder)
    digest = hashlib.sha256((folder / "certificate.cpu.json").read_bytes()).hexdigest()
    assert bundle.certificate_id == digest[:12] and bundle.version == 1


def flip_a_byte(folder: Path) -> None:
    data = bytearray((folder / "engine.bin").read_bytes())
    data[300] ^= 1
    (folder / "engine.bin").write_bytes(data)


def swap_the_spec(folder: Path) -> None:
    (folder / "spec.json").write_text((folder / "spec.json").read_text().replace('"f32"', '"bf16"'))


def plant_a_link(folder: Path) -> None:
    (folder / "engine.bin").rename(folder.parent / "elsewhere")
    (folder / "engine.bin").symlink_to(folder.parent / "elsewhere")


def edit_the_manifest(folder: Path) -> None:
    flip_a_byte(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["engine.bin"] = sha256_of(folder / "engine.bin")
    (folder / "manifest.json").write_text(json.dumps(manifest))


TAMPERED = [
    (flip_a_byte, "engine.bin: missing or changed"),
    (swap_the_spec, "spec.json: missing or changed"),
    (plant_a_link, "engine.bin: missing or changed"),
    (edit_the_manifest, "not the manifest that was certified"),
    (lambda folder: (folder / "engine.bin").unlink(), "engine.bin: missing or changed"),
    (lambda folder: (folder / "new.so").write_bytes(b"x"), "new.so: not part of the certified version"),
    (lambda folder: (folder / "serving").mkdir(), "serving: not part of the certified version"),
    (lambda folder: (folder / "certificate.cpu.json").unlink(), "no certificate for target cpu"),
    (lambda folder: (folder / "certificate.cpu.json").write_text("{"), "cannot be read"),
]


@pytest.mark.parametrize(("tamper", "message"), TAMPERED)
def test_s2_a_changed_file_is_refused(tmp_path: Path, tamper: Any, message: str) -> None:
    folder = publish(tmp_path)
    ModelBundle.load(folder)
    tamper(folder)
    with pytest.raises(CertificateRefused, match=message):
        ModelBundle.load(folder)


def test_a_failed_certificate_is_refused_and_the_old_version_keeps_serving(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    publish(tmp_path, 2, verdict="failed")
    with pytest.raises(CertificateRefused, match="says 'failed'"):
        ModelBundle.load(tmp_path / "m" / "2")
    good, bad = catalogue(tmp_path)
    assert good["m"].version == 1 and bad == {}


def test_a_model_without_any_good_version_is_listed_with_its_reason(tmp_path: Path) -> None:
    flip_a_byte(publish(tmp_path))
    good, bad = catalogue(tmp_path)
    assert good == {} and "changed since" in str(bad["m"])
    assert catalogue(tmp_path / "nowhere") == ({}, {})
