"""The gate every foreign ONNX file passes before a runtime (or onnx's own reader of external data) opens anything.

External tensors may name a plain file beside the model and nothing else: a regular file with one link, opened without
following links, offset and length inside its size. It is read here and put into the model, so that what later opens
the model finds no path in it. Fields: https://onnx.ai/onnx/repo-docs/ExternalData.html
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from serving.errors import ModelRefused

_KEYS = {"location", "offset", "length", "checksum"}
_SAFE = "copy weights into the model: onnx.save(model, path, save_as_external_data=False)"


@dataclass(frozen=True, slots=True)
class OnnxLimits:
    """Caps of a foreign model. A protobuf of 2 GiB or more cannot be read back by anything."""

    model_bytes: int = 2_000_000_000
    external_bytes: int = 1_900_000_000
    tensors: int = 200_000
    nodes: int = 200_000


def load_checked(path: Path, limits: OnnxLimits | None = None) -> Any:
    """Read an ONNX file and its external data, all of it checked first. Raises ModelRefused."""
    limits = limits or OnnxLimits()
    model = _parse(path, limits)
    if model.training_info:
        raise ModelRefused(f"{path.name}: it holds training graphs", hint="export the network for inference")
    total = 0
    for count, tensor in enumerate(_tensors(model, path.name, limits)):
        if count >= limits.tensors:
            raise ModelRefused(f"{path.name}: more than {limits.tensors} tensors")
        if tensor.data_location == TensorProto.EXTERNAL:
            data = _external(path, tensor, limits.external_bytes - total)
            total += len(data)
            del tensor.external_data[:]
            tensor.data_location = TensorProto.DEFAULT
            tensor.raw_data = data
        elif tensor.external_data:
            raise ModelRefused(f"{path.name}: tensor {tensor.name!r} names external data but is not external")
    return model


def check_file(path: Path, limits: OnnxLimits | None = None) -> None:
    """Raise ModelRefused unless `load_checked` would take the file."""
    load_checked(path, limits)


def _parse(path: Path, limits: OnnxLimits) -> Any:
    handle = _open_regular(path, path.name, follow=True)
    with os.fdopen(handle, "rb") as file:
        size = os.fstat(handle).st_size
        if size == 0 or size > limits.model_bytes:
            raise ModelRefused(f"{path.name}: expected 1 to {limits.model_bytes} bytes, got {size}")
        data = file.read(limits.model_bytes + 1)
    try:
        model = onnx.ModelProto.FromString(data)
    except (DecodeError, RecursionError) as error:
        raise ModelRefused(f"{path.name}: not an ONNX file: {error}") from error
    if not model.graph.node and not model.graph.output:
        raise ModelRefused(f"{path.name}: not an ONNX file: it has no graph")
    return model


def _tensors(model: Any, name: str, limits: OnnxLimits) -> Iterator[Any]:
    """Every tensor of the model: initializers, sparse ones, attributes, subgraphs, functions. Without recursion."""
    graphs = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    for function in model.functions:
        nodes_of_defaults = onnx.NodeProto(attribute=function.attribute_proto)
        nodes.append(nodes_of_defaults)
    seen = 0
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes.extend(graph.node)
            continue
        seen += 1
        if seen > limits.nodes:
            raise ModelRefused(f"{name}: more than {limits.nodes} nodes")
        for attribute in nodes.pop().attribute:
            yield from ([attribute.t] if attribute.HasField("t") else [])
            yield from attribute.tensors
            for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
                yield from (sparse.values, sparse.indices)
            graphs.extend([attribute.g] if attribute.HasField("g") else [])
            graphs.extend(attribute.graphs)


def _external(path: Path, tensor: Any, room: int) -> bytes:
    where = f"{path.name}: external tensor {tensor.name[:80]!r}"
    fields: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key not in _KEYS or entry.key in fields:
            raise ModelRefused(f"{where}: unexpected or repeated key {entry.key[:40]!r}", hint=_SAFE)
        fields[entry.key] = entry.value
    location = fields.get("location", "")
    if not _plain_name(location):
        raise ModelRefused(f"{where}: expected the plain name of a file beside the model, got {location[:120]!r}")
    offset, length = _number(where, fields, "offset"), _number(where, fields, "length")
    wanted = _size_of(where, tensor)
    handle = _open_regular(path.resolve().parent / location, where, follow=False)
    with os.fdopen(handle, "rb") as file:
        size = os.fstat(handle).st_size
        start = offset or 0
        count = size - start if length is None else length
        if start + count > size or count != wanted or count > room:
            raise ModelRefused(
                f"{where}: {count} bytes from {start} of {location} ({size} bytes), its shape needs {wanted}, "
                f"and {room} are left of the limit"
            )
        file.seek(start)
        data = file.read(count)
    if len(data) != count:
        raise ModelRefused(f"{where}: {location} shrank while it was read")
    return data


def _plain_name(location: str) -> bool:
    odd = any(character in location for character in "/\\:\0") or any(ord(c) < 32 for c in location)
    return bool(location) and not odd and location not in (".", "..") and len(location) < 256


def _number(where: str, fields: dict[str, str], key: str) -> int | None:
    text = fields.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise ModelRefused(f"{where}: {key}: expected a number of bytes, got {text[:40]!r}")
    return int(text)


def _size_of(where: str, tensor: Any) -> int:
    try:
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError, TypeError) as error:
        raise ModelRefused(f"{where}: unknown data type {tensor.data_type}") from error
    if tensor.data_type == TensorProto.STRING:
        raise ModelRefused(f"{where}: strings cannot be external")
    count = 1
    for side in tensor.dims:
        if side < 0:
            raise ModelRefused(f"{where}: expected dimensions of 0 or more, got {list(tensor.dims)}")
        count *= side
    bits = {TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.FLOAT4E2M1: 4}.get(tensor.data_type, 0)
    return (count * bits + 7) // 8 if bits else count * int(kind.itemsize)


def _open_regular(path: Path, where: str, *, follow: bool) -> int:
    """A descriptor of a regular file; nothing else is opened (no pipe, no device), no link followed unless allowed."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        facts = path.stat() if follow else path.lstat()
        if not stat.S_ISREG(facts.st_mode):
            raise ModelRefused(f"{where}: {path.name} is not a regular file", hint=_SAFE)
        handle = os.open(path, flags)
    except OSError as error:
        raise ModelRefused(f"{where}: {path.name} cannot be opened: {error.strerror}") from error
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode) or (not follow and facts.st_nlink != 1):
        os.close(handle)
        raise ModelRefused(f"{where}: {path.name} is not a regular file with one link", hint=_SAFE)
    return handle
