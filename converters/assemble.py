"""The files of a version as Triton and the loader want them, written into the staging folder."""

from __future__ import annotations

import json
from pathlib import Path

from converters.artifacts import artifact_files
from converters.config_pbtxt import config_pbtxt
from converters.proof import Proof
from converters.publish import CONFIG, copy_file, write_file, write_manifest
from converters.sources import Sources
from serving.bundle import SPEC, UNCERTIFIED, ModelBundle
from serving.errors import BuildFailed
from serving.types import TensorSpec

MODEL_PY = b'''"""Loaded by Triton's Python backend, whose interpreter is isolated and passes PYTHONPATH over."""

import os
import sys

sys.path[:0] = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]

from serving.backend import TritonPythonModel  # noqa: E402, F401
'''


def assemble(staged: Path, work: Path, sources: Sources, proof: Proof) -> str:
    """Write model.py, spec.json, the artifacts, config.pbtxt and the manifest; returns the manifest's SHA-256."""
    if proof.info is None:
        raise BuildFailed(f"{sources.spec.name}: no engine could be opened")
    for path in artifact_files(work):
        copy_file(path, staged / path.name)
    write_file(staged / "model.py", MODEL_PY)
    write_file(staged / SPEC, spec_json(sources, proof))
    config = config_pbtxt(sources.spec, proof.info.outputs, int(staged.name)).encode()
    write_file(staged / CONFIG, config)
    write_file(staged.parent / CONFIG, config)
    return write_manifest(staged)


def spec_json(sources: Sources, proof: Proof) -> bytes:
    """What a served version needs of its spec."""
    assert proof.info is not None
    document = {
        "schema": 1,
        "spec": sources.spec.model_dump(mode="json"),
        "labels": list(sources.labels),
        "engine": proof.engine,
        "precision": proof.precision,
        "threads": sources.spec.serving.threads,
        "signature": {
            "inputs": [_tensor(t) for t in proof.info.inputs],
            "outputs": [_tensor(t) for t in proof.info.outputs],
        },
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def bundle_of(staged: Path, sources: Sources, proof: Proof) -> ModelBundle:
    """The bundle that the certificate compares with: from the spec in hand, not from the file it wrote."""
    assert proof.info is not None
    return ModelBundle(
        spec=sources.spec,
        labels=sources.labels,
        version=int(staged.name),
        version_dir=staged,
        certificate_id=UNCERTIFIED,
        engine=proof.engine,
        precision=proof.precision,
        threads=sources.spec.serving.threads,
        engine_inputs=proof.info.inputs,
        engine_outputs=proof.info.outputs,
    )


def _tensor(tensor: TensorSpec) -> dict[str, object]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
