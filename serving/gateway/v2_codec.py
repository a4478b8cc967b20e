"""KServe V2 on the wire: a request body to arrays and back, JSON and the binary tensor extension.

Protocol: https://github.com/kserve/open-inference-protocol (REST) and Triton's binary tensor data extension, in which
a JSON header of `Inference-Header-Content-Length` bytes is followed by the tensors' bytes, little endian, row-major,
in the order of the header's entries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson

from serving.errors import BodyInvalid, InputError
from serving.gateway.bodies import read_json
from serving.gateway.parameters import whole
from serving.ports import ServerReply, ServerTensor
from serving.types import DATATYPES, Array, datatype_of

MAX_TENSORS = 64
MAX_AXES = 8
MAX_SIDE = 2**31 - 1
_WHOLE = ("INT8", "INT32", "INT64", "UINT8")
_LEAVES: Mapping[str, set[type]] = {
    "BOOL": {bool},
    "FP32": {int, float},
    "FP64": {int, float},
    **{word: {int} for word in _WHOLE},
}


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """One requested output; `binary`: as bytes after the JSON."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class V2Request:
    """What a body asks for. No `outputs`: all of them, as bytes where `binary_default` says so."""

    id: str
    tensors: tuple[ServerTensor, ...]
    outputs: tuple[WantedOutput, ...]
    parameters: Mapping[str, Any]
    binary_default: bool


def decode(body: bytes, header_length: bytes | None) -> V2Request:
    """A body and the value of Inference-Header-Content-Length -> request. Raises BodyInvalid saying where."""
    header, rest = _split(body, header_length)
    document = read_json(header)
    _only(document, ("id", "parameters", "inputs", "outputs"), "request")
    parameters = dict(_typed(document.get("parameters", {}), dict, "parameters"))
    entries = _typed(document.get("inputs"), list, "inputs")
    if not 1 <= len(entries) <= MAX_TENSORS:
        raise BodyInvalid(f"inputs: expected 1 to {MAX_TENSORS} tensors, got {len(entries)}")
    tensors, offset = [], 0
    for index, entry in enumerate(entries):
        tensor, used = _tensor(entry, rest[offset:], f"inputs[{index}]")
        tensors.append(tensor)
        offset += used
    if offset != len(rest):
        raise BodyInvalid(f"binary data: {len(rest)} bytes came, the inputs name {offset}")
    binary_default = _typed(parameters.pop("binary_data_output", False), bool, "parameters.binary_data_output")
    outputs = _outputs(_typed(document.get("outputs", []), list, "outputs"), binary_default)
    _unique([t.name for t in tensors], "inputs")
    request_id = _typed(document.get("id", ""), str, "id")
    return V2Request(request_id, tuple(tensors), outputs, parameters, binary_default)


def encode(reply: ServerReply, request: V2Request) -> tuple[bytes, int | None]:
    """An answer -> body and, where tensors follow as bytes, the length of the JSON before them."""
    wanted = request.outputs or tuple(WantedOutput(name, request.binary_default) for name in reply.tensors)
    entries, blobs = [], []
    for output in wanted:
        array = np.ascontiguousarray(reply.tensors[output.name])
        entry: dict[str, Any] = {
            "name": output.name,
            "datatype": datatype_of(array),
            "shape": list(reply.tensors[output.name].shape),
        }
        if output.binary:
            blobs.append(array.tobytes())
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = _numbers(output.name, array)
        entries.append(entry)
    document: dict[str, Any] = {"model_name": reply.model_name, "model_version": reply.model_version}
    if request.id:
        document["id"] = request.id
    header = orjson.dumps({**document, "outputs": entries})
    return (b"".join([header, *blobs]), len(header)) if blobs else (header, None)


def _numbers(name: str, array: Array) -> list[Any]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"output {name} holds values that JSON cannot carry", hint="ask for it with binary_data: true")
    numbers: list[Any] = array.ravel().tolist()
    return numbers


def _split(body: bytes, header_length: bytes | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    if not header_length.isdigit() or len(header_length) > 9 or int(header_length) > len(body):
        raise BodyInvalid(f"Inference-Header-Content-Length: expected 0 to {len(body)}, the length of the body")
    return body[: int(header_length)], body[int(header_length) :]


def _tensor(entry: Any, rest: bytes, where: str) -> tuple[ServerTensor, int]:
    _only(_typed(entry, dict, where), ("name", "shape", "datatype", "parameters", "data"), where)
    name, datatype = _name(entry, where), _typed(entry.get("datatype"), str, f"{where}.datatype")
    if datatype not in DATATYPES:
        raise BodyInvalid(f"{where}.datatype: expected one of {', '.join(DATATYPES)}, got {datatype[:20]!r}")
    shape = _shape(entry.get("shape"), where)
    options = _typed(entry.get("parameters", {}), dict, f"{where}.parameters")
    _only(options, ("binary_data_size",), f"{where}.parameters", "shared memory is not served")
    if "binary_data_size" not in options:
        return ServerTensor(name, _from_list(entry.get("data"), datatype, shape, where)), 0
    size = whole(options["binary_data_size"])
    if size is None:
        raise BodyInvalid(f"{where}.parameters.binary_data_size: expected a whole number")
    if "data" in entry:
        raise BodyInvalid(f"{where}: expected data or binary_data_size, got both")
    expected = math.prod(shape) * np.dtype(DATATYPES[datatype]).itemsize
    if size != expected or size > len(rest):
        raise BodyInvalid(f"{where}: shape and datatype need {expected} bytes, {size} announced, {len(rest)} left")
    return ServerTensor(name, np.frombuffer(rest[:size], DATATYPES[datatype]).reshape(shape)), size


def _from_list(data: Any, datatype: str, shape: Sequence[int], where: str) -> Array:
    if datatype not in _LEAVES:
        raise BodyInvalid(f"{where}: {datatype} goes as binary data only", hint="the binary tensor data extension")
    numbers = _leaves(_typed(data, list, f"{where}.data"), shape, where)
    if not set(map(type, numbers)) <= _LEAVES[datatype]:
        raise BodyInvalid(f"{where}.data: expected {datatype} numbers")
    if datatype in _WHOLE:
        return _whole_numbers(numbers, datatype, where).reshape(shape)
    with np.errstate(over="ignore"):
        typed = np.array(numbers, bool if datatype == "BOOL" else np.float64).astype(DATATYPES[datatype])
    if typed.dtype.kind == "f" and not np.isfinite(typed).all():
        raise BodyInvalid(f"{where}.data: a number is too large for {datatype}")
    return typed.reshape(shape)


def _whole_numbers(numbers: list[int], datatype: str, where: str) -> Array:
    bounds = np.iinfo(np.dtype(DATATYPES[datatype]))
    try:
        array = np.array(numbers, np.int64)
    except OverflowError:
        array = None
    if array is None or array.min() < bounds.min or array.max() > bounds.max:
        raise BodyInvalid(f"{where}.data: {datatype} holds {bounds.min} to {bounds.max}")
    return array.astype(DATATYPES[datatype])


def _leaves(values: list[Any], shape: Sequence[int], where: str) -> list[Any]:
    """A flat list, or one nested as `shape` is, row-major: as many values as `shape` needs, of any type.

    NumPy sees none of it before its values were looked at: a long text among many short ones would become an array
    of texts that are all as wide as the longest.
    """
    sides = [len(values)]
    while values and type(values[0]) is list:
        lengths = {len(part) if type(part) is list else -1 for part in values}
        if len(lengths) > 1 or len(sides) == len(shape):
            raise BodyInvalid(f"{where}.data: expected numbers, flat or nested as the shape is")
        sides.append(lengths.pop())
        values = list(chain.from_iterable(values))
    if len(values) != math.prod(shape) or (len(sides) > 1 and sides != list(shape)):
        raise BodyInvalid(f"{where}.data: shape {list(shape)} needs {math.prod(shape)} numbers, got {len(values)}")
    return values


def _shape(value: Any, where: str) -> tuple[int, ...]:
    shape = _typed(value, list, f"{where}.shape")
    sides = [whole(side) or 0 for side in shape]
    if not 1 <= len(sides) <= MAX_AXES or not all(1 <= side <= MAX_SIDE for side in sides):
        raise BodyInvalid(f"{where}.shape: expected 1 to {MAX_AXES} whole numbers from 1, the batch first")
    return tuple(sides)


def _outputs(entries: Sequence[Any], binary_default: bool) -> tuple[WantedOutput, ...]:
    if len(entries) > MAX_TENSORS:
        raise BodyInvalid(f"outputs: expected at most {MAX_TENSORS}, got {len(entries)}")
    wanted = []
    for index, entry in enumerate(entries):
        where = f"outputs[{index}]"
        _only(_typed(entry, dict, where), ("name", "parameters"), where)
        options = _typed(entry.get("parameters", {}), dict, f"{where}.parameters")
        _only(options, ("binary_data",), f"{where}.parameters", "shared memory and classification are not served")
        binary = _typed(options.get("binary_data", binary_default), bool, f"{where}.parameters.binary_data")
        wanted.append(WantedOutput(_name(entry, where), binary))
    _unique([output.name for output in wanted], "outputs")
    return tuple(wanted)


def _name(entry: Mapping[str, Any], where: str) -> str:
    name: str = _typed(entry.get("name"), str, f"{where}.name")
    if not name:
        raise BodyInvalid(f"{where}.name: expected the name of a tensor")
    return name


def _unique(names: Sequence[str], where: str) -> None:
    if len(set(names)) != len(names):
        raise BodyInvalid(f"{where}: a name stands twice")


def _only(entry: Mapping[str, Any], known: Sequence[str], where: str, hint: str = "") -> None:
    for key in entry:
        if key not in known:
            raise BodyInvalid(f"{where}: unknown key {str(key)[:40]!r}; expected {', '.join(known)}", hint=hint)


def _typed(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind):
        raise BodyInvalid(f"{where}: expected {_WORDS[kind]}, got {type(value).__name__}")
    return value


_WORDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
