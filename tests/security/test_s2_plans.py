"""S2: a TensorRT plan is native code, so a version loads only while every plan is the certified one, byte for byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.tensorrt_build import tensorrt_from_onnx
from serving.bundle import ModelBundle, catalogue, sha256_of
from serving.errors import CertificateRefused
from serving.spec import ModelSpec

SPEC: dict[str, Any] = {
    "name": "plan",
    "task": "classification",
    "checkpoint": {"format": "onnx", "path": "m.onnx"},
    "preprocess": {"width": 2, "height": 2},
    "precision": "fp32",
}
PLAN = "engine.tensorrt_rtx.sm86.trt"
pytestmark = pytest.mark.needs("tensorrt_rtx")


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """Two real plans that differ in one weight only."""
    folder = tmp_path_factory.mktemp("plans")
    built = []
    for value in (1.0, 2.0):
        w = numpy_helper.from_array(np.full((3, 3, 1, 1), value, np.float32), "w")
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, 2, 2]) for name in ("images", "output")
        ]
        graph = helper.make_graph([helper.make_node("Conv", ["images", "w"], ["output"])], "g", ends[:1], ends[1:], [w])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.save(model, folder / "m.onnx")
        source = folder / "m.onnx"
        tensorrt_from_onnx(source, source, folder, ModelSpec.model_validate(SPEC), targets=[("SM86",)])
        built.append((folder / PLAN).read_bytes())
    return built[0], built[1]


def _publish(repository: Path, version: int, plan: bytes) -> Path:
    folder = repository / "plan" / str(version)
    folder.mkdir(parents=True)
    signature = {"inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 2, 2]}], "outputs": []}
    document = {"spec": SPEC, "labels": [], "engine": "tensorrt_rtx", "precision": "f32", "threads": 1}
    (folder / "spec.json").write_text(json.dumps({**document, "signature": signature}))
    (folder / PLAN).write_bytes(plan)
    files = {name: sha256_of(folder / name) for name in ("spec.json", PLAN)}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    certificate = {"verdict": "passed", "manifest_sha256": sha256_of(folder / "manifest.json"), "rows": []}
    (folder / "certificate.gpu.json").write_text(json.dumps(certificate))
    return folder


def _flip(position: float) -> Callable[[Path, bytes], None]:
    def change(folder: Path, other: bytes) -> None:
        data = bytearray((folder / PLAN).read_bytes())
        data[int(position * (len(data) - 1))] ^= 1
        (folder / PLAN).write_bytes(data)

    return change


def _swap(folder: Path, other: bytes) -> None:
    (folder / PLAN).write_bytes(other)


def _add_unsigned(folder: Path, other: bytes) -> None:
    (folder / "engine.tensorrt_rtx.sm89.trt").write_bytes(other)


def _swap_and_sign(folder: Path, other: bytes) -> None:
    """The plan and its line in the manifest, but not the certificate that names the manifest."""
    _swap(folder, other)
    files = {name: sha256_of(folder / name) for name in ("spec.json", PLAN)}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))


def _link(folder: Path, other: bytes) -> None:
    shutil.move(folder / PLAN, folder.parent.parent / "elsewhere.trt")
    (folder / PLAN).symlink_to(folder.parent.parent / "elsewhere.trt")


ATTACKS: dict[str, Callable[[Path, bytes], None]] = {
    "first byte": _flip(0.0),
    "middle byte": _flip(0.5),
    "last byte": _flip(1.0),
    "swapped": _swap,
    "swapped with its manifest line": _swap_and_sign,
    "unsigned beside it": _add_unsigned,
    "linked elsewhere": _link,
    "taken away": lambda folder, other: (folder / PLAN).unlink(),
    "certificate taken away": lambda folder, other: (folder / "certificate.gpu.json").unlink(),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_changed_plan_is_refused_and_the_old_version_serves_on(
    attack: str, plans: tuple[bytes, bytes], tmp_path: Path
) -> None:
    _publish(tmp_path, 1, plans[0])
    folder = _publish(tmp_path, 2, plans[0])
    assert ModelBundle.load(folder, "gpu").version == 2
    ATTACKS[attack](folder, plans[1])
    with pytest.raises(CertificateRefused):
        ModelBundle.load(folder, "gpu")
    good, _ = catalogue(tmp_path, "gpu")
    assert good["plan"].version == 1
