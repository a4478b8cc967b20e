"""Which version is certified again, what it must have been made of, and what a new certificate keeps of the old one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_onnx import WEIGHT, gathered, write_onnx, write_spec

from converters.certify import as_built, published
from converters.publish import write_manifest
from converters.sources import Sources, spec_sha256
from serving.errors import CertificateRefused


def _version(repository: Path, version: int, sources: Sources) -> Path:
    """A version as `convert --target` leaves it, without its files."""
    folder = repository / "small" / str(version)
    folder.mkdir(parents=True)
    document = {
        "spec": sources.spec.model_dump(mode="json"), "labels": sources.labels, "engine": "onnxruntime",
        "precision": "f32", "threads": 1, "signature": {"inputs": [], "outputs": []},
    }  # fmt: skip
    (folder / "spec.json").write_text(json.dumps(document))
    certificate = {
        "manifest_sha256": write_manifest(folder), "spec_sha256": spec_sha256(sources.spec), "version": version,
        "checkpoint_sha256": sources.checkpoint_sha256, "conversion": {"external_data": dict(sources.external)},
    }  # fmt: skip
    (folder / f"certificate.{sources.target}.json").write_text(json.dumps(certificate))
    return folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_onnx(tmp_path / "m.onnx", "w.bin")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    return write_spec(tmp_path, labels="labels.txt")


def test_the_newest_version_of_the_target_is_certified_and_of_cpu_where_it_has_none(path: Path, tmp_path: Path) -> None:
    cpu, gpu = gathered(path), gathered(path, "gpu")
    first = _version(tmp_path / "repository", 1, cpu)
    assert published(tmp_path / "repository", gpu)[0] == first
    second = _version(tmp_path / "repository", 2, gpu)
    assert published(tmp_path / "repository", cpu)[0] == first
    assert published(tmp_path / "repository", gpu)[0] == second
    third = _version(tmp_path / "repository", 3, cpu)
    assert published(tmp_path / "repository", cpu)[0] == third


@pytest.mark.parametrize(
    ("file", "data", "what"),
    [
        ("labels.txt", b"dog\ncat\n", "labels"),
        ("w.bin", (WEIGHT + 1).tobytes(), "m.onnx: its external data"),
    ],
)
def test_labels_and_weights_must_be_those_of_the_version(
    file: str, data: bytes, what: str, path: Path, tmp_path: Path
) -> None:
    _version(tmp_path / "repository", 1, gathered(path))
    (tmp_path / file).write_bytes(data)
    with pytest.raises(CertificateRefused, match=f"{what}: changed since version 1") as refused:
        published(tmp_path / "repository", gathered(path))
    assert refused.value.hint == f"lockstep convert {path}"


def test_a_new_certificate_keeps_what_the_files_were_built_from_and_with() -> None:
    """Otherwise `convert` would call a version up to date that an older TensorRT built."""
    old = {"content_sha256": "old", "tools": {"tensorrt": "1"}, "certified_with": {"tensorrt": "2"}}
    new = as_built({"verdict": "passed", "content_sha256": "new", "tools": {"tensorrt": "3"}}, old)
    assert new == {
        "verdict": "passed", "content_sha256": "old", "tools": {"tensorrt": "1"}, "certified_with": {"tensorrt": "3"}
    }  # fmt: skip
