"""The forms of an inference body: one raw picture, multipart/form-data, or JSON with base64. All in memory."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serving.errors import BodyInvalid, ImageInvalid, MediaTypeUnsupported
from serving.errors_audio import AudioInvalid
from serving.gateway.parameters import from_json
from serving.spec import ModelSpec

RAW_TYPES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
SOUND_TYPES = ("audio/wav", "audio/x-wav", "audio/vnd.wave", "audio/wave", "audio/flac", "audio/x-flac",
               "application/octet-stream")  # fmt: skip
MAX_IMAGES = 32
_JSON_KEYS = ("image", "images", "parameters")
_FORM_NAMES = ("image", "images", "parameters")
_SOUND_NAMES = {"audio": "image", "audios": "images", "parameters": "parameters"}


@dataclass(frozen=True, slots=True)
class Pictures:
    """Encoded pictures (or sounds) of one request. `batch`: the caller sent a list and gets a list."""

    encoded: Sequence[bytes]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    batch: bool = False


def read_pictures(content_type: bytes | None, body: bytes, spec: ModelSpec) -> Pictures:
    """A body by its Content-Type (absent: raw bytes). Raises MediaTypeUnsupported, BodyInvalid, ImageInvalid (empty),
    ParameterInvalid."""
    kind, options = media_type(content_type)
    if kind in raw_types(spec):
        pictures = Pictures([body])
    elif kind == "application/json":
        pictures = _from_json(body, spec)
    elif kind == "multipart/form-data":
        pictures = _from_multipart(body, options.get(b"boundary"), spec)
    else:
        taken = ", ".join((*raw_types(spec), "multipart/form-data", "application/json"))
        raise MediaTypeUnsupported(f"Content-Type: expected one of {taken}, got {kind[:60]!r}")
    if len(pictures.encoded) > MAX_IMAGES:
        raise BodyInvalid(f"expected at most {MAX_IMAGES} images in one request, got {len(pictures.encoded)}")
    if not all(pictures.encoded) and spec.sound is not None:
        raise AudioInvalid("a sound of zero bytes", hint="send the whole file as the body")
    if not all(pictures.encoded):
        raise ImageInvalid("an image of zero bytes", hint="send the whole file as the body")
    return pictures


def raw_types(spec: ModelSpec) -> tuple[str, ...]:
    """The Content-Types of a body that is one sample."""
    return SOUND_TYPES if spec.sound is not None else RAW_TYPES


def media_type(content_type: bytes | None) -> tuple[str, dict[bytes, bytes]]:
    """A Content-Type in small letters, and its parameters; absent: raw bytes."""
    if content_type is None:
        return "application/octet-stream", {}
    kind, options = parse_options_header(content_type)
    return kind.decode("latin-1").lower(), options


def _from_json(body: bytes, spec: ModelSpec) -> Pictures:
    value = read_json(body)
    if spec.sound is not None:
        value = {_SOUND_NAMES.get(key, f"{key} (of a picture)"): part for key, part in value.items()}
    unknown = [key for key in value if key not in _JSON_KEYS]
    if unknown:
        known = _SOUND_NAMES if spec.sound is not None else _JSON_KEYS
        raise BodyInvalid(f"unknown key {unknown[0][:60]!r}; expected {', '.join(known)}")
    if ("image" in value) == ("images" in value):
        name = spec.encoded_input
        raise BodyInvalid(f"expected exactly one of {name} (base64 text) and {name}s (a list of them)")
    parameters = from_json(value.get("parameters", {}), spec)
    if "image" in value:
        return Pictures([_from_base64(value["image"], "image")], parameters)
    images = value["images"]
    if not isinstance(images, list) or not images:
        raise BodyInvalid("images: expected a list with at least one base64 text")
    return Pictures([_from_base64(text, f"images[{i}]") for i, text in enumerate(images)], parameters, batch=True)


def read_json(body: bytes) -> dict[str, Any]:
    """A JSON object; BodyInvalid says what is wrong, never with the parser's text."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BodyInvalid(f"not JSON: the parser stopped at character {error.pos}") from None
    if not isinstance(value, dict):
        raise BodyInvalid(f"expected a JSON object, got {type(value).__name__}")
    return value


def _from_base64(text: Any, where: str) -> bytes:
    if not isinstance(text, str):
        raise BodyInvalid(f"{where}: expected base64 text, got {type(text).__name__}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BodyInvalid(f"{where}: not base64", hint="standard alphabet with padding, no data: prefix") from None


class _Form:
    """Collects the parts of a form, all in memory; the body is bounded already."""

    def __init__(self) -> None:
        self.parts: list[tuple[dict[bytes, bytes], bytearray]] = []
        self.complete = False
        self._name, self._value = bytearray(), bytearray()

    def begin(self) -> None:
        if len(self.parts) > MAX_IMAGES:
            raise BodyInvalid(f"expected at most {MAX_IMAGES} images in one request")
        self.parts.append(({}, bytearray()))

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        self.parts[-1][0][bytes(self._name).lower()] = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1][1].extend(data[start:end])

    def end(self) -> None:
        self.complete = True


def _from_multipart(body: bytes, boundary: bytes | None, spec: ModelSpec) -> Pictures:
    if not boundary:
        raise BodyInvalid("multipart/form-data: the Content-Type has no boundary")
    images: list[bytes] = []
    parameters: dict[str, Any] = {}
    for headers, data in _parse_form(body, boundary):
        _, options = parse_options_header(headers.get(b"content-disposition"))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if spec.sound is not None:
            name = _SOUND_NAMES.get(name, f"{name} (of a picture)")
        if name not in _FORM_NAMES:
            raise BodyInvalid(f"unknown form field {name[:60]!r}; expected {', '.join(_FORM_NAMES)}")
        if name == "parameters":
            parameters = from_json(read_json(data), spec)
        else:
            images.append(data)
    if not images:
        name = spec.encoded_input
        raise BodyInvalid(f"multipart/form-data: expected at least one file in the field {name}")
    return Pictures(images, parameters, batch=len(images) > 1)


def _parse_form(body: bytes, boundary: bytes) -> list[tuple[dict[bytes, bytes], bytes]]:
    form = _Form()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin,
                "on_part_data": form.data,
                "on_header_field": form.header_field,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_end": form.end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise BodyInvalid("multipart/form-data: malformed, or the boundary does not match") from None
    if not form.complete:
        raise BodyInvalid("multipart/form-data: the closing boundary is missing")
    return [(headers, bytes(data)) for headers, data in form.parts]
