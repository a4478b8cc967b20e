"""S3: an ONNX file that reaches outside its folder, or lies about its data, is refused before any runtime opens a file.

CVE-2022-25882, CVE-2024-27318, CVE-2025-51480, CVE-2026-27489, CVE-2026-34445 and CVE-2026-34446 are among these.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.onnx_safety import OnnxLimits, load_checked
from serving.errors import ModelRefused

DATA = np.arange(12, dtype=np.float32)
Entries = list[tuple[str, str]]
GOOD: Entries = [("location", "weights.bin"), ("offset", "0"), ("length", "48")]


def _tensor(entries: Entries, name: str = "w") -> Any:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[3, 4], data_location=TensorProto.EXTERNAL)
    for key, value in entries:
        tensor.external_data.add(key=key, value=value)
    return tensor


def _model(tensor: Any, place: str = "initializer") -> Any:
    add = helper.make_node("Add", ["x", "w"], ["y"])
    value = helper.make_tensor_value_info
    ends = [value("x", TensorProto.FLOAT, [3, 4])], [value("y", TensorProto.FLOAT, [3, 4])]
    if place == "initializer":
        graph = helper.make_graph([add], "g", *ends, [tensor])
    elif place == "constant":
        graph = helper.make_graph([helper.make_node("Constant", [], ["w"], value=tensor), add], "g", *ends)
    elif place == "subgraph":
        body = helper.make_graph([helper.make_node("Identity", ["w"], ["o"])], "b", [], ends[1], [tensor])
        node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
        graph = helper.make_graph([node], "g", *ends)
    else:
        graph = helper.make_graph([add], "g", *ends)
        sparse = onnx.SparseTensorProto(dims=[3, 4])
        sparse.values.CopyFrom(tensor)
        graph.sparse_initializer.append(sparse)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _changed(**changes: str | None) -> Entries:
    kept = {**dict(GOOD), **{k: v for k, v in changes.items() if v is not None}}
    return [(k, v) for k, v in kept.items() if changes.get(k, "") is not None]


# Name -> external data entries and where the tensor sits. `folder` is prepared by the fixture.
HOSTILE: dict[str, tuple[Entries, str]] = {
    "absolute path": (_changed(location="/etc/passwd"), "initializer"),
    "parent path": (_changed(location="../secret.bin"), "initializer"),
    "nested parent path": (_changed(location="inner/../../secret.bin"), "initializer"),
    "sub-folder": (_changed(location="inner/weights.bin"), "initializer"),
    "empty name": (_changed(location=""), "initializer"),
    "the folder itself": (_changed(location="."), "initializer"),
    "symbolic link": (_changed(location="symlink.bin"), "initializer"),
    "hard link": (_changed(location="hardlink.bin"), "initializer"),
    "named pipe": (_changed(location="pipe.bin"), "initializer"),
    "zero byte in the name": (_changed(location="weights.bin\0/etc/passwd"), "initializer"),
    "back-slashes": (_changed(location="..\\secret.bin"), "initializer"),
    "offset beyond the file": (_changed(offset="64"), "initializer"),
    "length beyond the file": (_changed(length="4096"), "initializer"),
    "length beside the shape": (_changed(length="44"), "initializer"),
    "negative offset": (_changed(offset="-16"), "initializer"),
    "offset that is no number": (_changed(offset="0x10"), "initializer"),
    "attribute injection": ([*GOOD, ("basepath", "/etc")], "initializer"),
    "class injection": ([*GOOD, ("__class__", "os")], "initializer"),
    "location twice": ([*GOOD, ("location", "../secret.bin")], "initializer"),
    "in a constant": (_changed(location="../secret.bin"), "constant"),
    "in a subgraph": (_changed(location="../secret.bin"), "subgraph"),
    "in a sparse tensor": (_changed(location="../secret.bin"), "sparse"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "model"
    (inside / "inner").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(b"s" * 48)
    (inside / "inner" / "weights.bin").write_bytes(DATA.tobytes())
    (inside / "weights.bin").write_bytes(DATA.tobytes())
    (inside / "symlink.bin").symlink_to(tmp_path / "secret.bin")
    (inside / "linked.bin").write_bytes(DATA.tobytes())
    os.link(inside / "linked.bin", inside / "hardlink.bin")
    os.mkfifo(inside / "pipe.bin")
    return inside


@pytest.fixture
def opened() -> Callable[[], set[str]]:
    """Names of the files that this process opened since (an audit hook cannot be removed, so it is switched off)."""
    names: set[str] = set()
    active = [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if active[0] and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            names.add(Path(os.fsdecode(arguments[0])).name)

    sys.addaudithook(hook)

    def stop() -> set[str]:
        active[0] = False
        return names

    return stop


@pytest.mark.parametrize("trick", HOSTILE)
def test_a_hostile_model_is_refused_and_nothing_outside_is_opened(
    trick: str, folder: Path, opened: Callable[[], set[str]]
) -> None:
    entries, place = HOSTILE[trick]
    path = folder / "model.onnx"
    path.write_bytes(_model(_tensor(entries), place).SerializeToString())
    with pytest.raises(ModelRefused):
        load_checked(path)
    assert not opened() & {"secret.bin", "passwd", "symlink.bin", "pipe.bin"}


@pytest.mark.parametrize("place", ["initializer", "constant"])
def test_plain_external_data_is_taken_and_put_inside(place: str, folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(_model(_tensor(GOOD), place).SerializeToString())
    model = load_checked(path)
    tensor = model.graph.initializer[0] if place == "initializer" else model.graph.node[0].attribute[0].t
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), DATA.reshape(3, 4))
    assert not tensor.external_data
    assert tensor.data_location == TensorProto.DEFAULT


def test_caps_and_what_is_no_model(folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(_model(_tensor(GOOD)).SerializeToString())
    for limits in (OnnxLimits(model_bytes=10), OnnxLimits(external_bytes=47), OnnxLimits(nodes=0)):
        with pytest.raises(ModelRefused):
            load_checked(path, limits)
    for data in (b"", b"GIF89a", b"\x08\x0a\xff\xff\xff\xff\x0f"):
        path.write_bytes(data)
        with pytest.raises(ModelRefused):
            load_checked(path)
    with pytest.raises(ModelRefused, match="regular file"):
        load_checked(folder / "pipe.bin")
    with pytest.raises(ModelRefused, match="regular file"):
        load_checked(folder)


def test_a_model_that_writes_or_trains_is_refused(folder: Path) -> None:
    model = _model(_tensor(GOOD))
    model.training_info.add()
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelRefused, match="training"):
        load_checked(folder / "model.onnx")
