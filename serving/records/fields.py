"""Typed fields out of headers and JSON, strict: what is wrong is named, and nothing is guessed.

Headers are ASCII text, so that any Kafka tool can show them: integers in decimal, times in nanoseconds or in ticks of
`time_base` (a fraction of seconds such as 1/90000), true and false, lists comma-separated.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from fractions import Fraction
from typing import Any, NamedTuple, NoReturn, TypeVar

from serving.errors import RecordInvalid
from serving.ports_log import Headers

INT64 = 1 << 63
MAX_EPOCH = (1 << 31) - 1
MAX_HEADERS = 64
MAX_HEADER_BYTES = 1024
MAX_JSON_BYTES = 1 << 20
MAX_NESTING = 64
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z", re.ASCII)
_INTEGER = re.compile(r"(0|-?[1-9][0-9]{0,18})\Z", re.ASCII)
_VERSION = re.compile(r"[1-9][0-9]{0,17}\Z", re.ASCII)
_FRACTION = re.compile(r"([1-9][0-9]{0,9})/([1-9][0-9]{0,9})\Z", re.ASCII)
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z", re.ASCII)
_MISSING: Any = object()
E = TypeVar("E", bound=Enum)


class Encoded(NamedTuple):
    """A record without its place. value None: a tombstone."""

    key: bytes
    value: bytes | None
    headers: Headers = ()


def wrong(topic: str, field: str, expected: object, got: object) -> NoReturn:
    """Raise RecordInvalid; what came is cut to 80 characters."""
    shown = repr(got)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    raise RecordInvalid(f"{topic}.{field}: expected {expected}, got {shown}", field=field)


def text_of(data: bytes | None, topic: str, field: str) -> str:
    """UTF-8 text of a key or header."""
    if data is None:
        wrong(topic, field, "bytes", None)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        wrong(topic, field, "UTF-8 text", data)


def name_of(value: Any, topic: str, field: str) -> str:
    """A source's, pipeline's or process's name: at most 64 letters, digits, dots, dashes, underscores."""
    if not isinstance(value, str) or not NAME.match(value):
        wrong(topic, field, "1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit", value)
    return value


def fraction_text(value: Fraction) -> str:
    """1/90000."""
    return f"{value.numerator}/{value.denominator}"


class Fields:
    """The fields of one record by name, taken one after the other."""

    def __init__(self, topic: str, values: Mapping[str, Any], where: str = "", textual: bool = False) -> None:
        """textual: all values are text (headers); else they have JSON's types."""
        self.topic, self._values, self._where, self._textual = topic, values, where, textual

    @classmethod
    def of_headers(cls, topic: str, headers: Headers, ours: Iterable[str]) -> Fields:
        """Headers as text. One of ours twice is an error; others' are left alone."""
        if len(headers) > MAX_HEADERS:
            wrong(topic, "headers", f"at most {MAX_HEADERS}", len(headers))
        known = frozenset(ours)
        values: dict[str, str] = {}
        for name, data in headers:
            if name not in known:
                continue
            if name in values:
                wrong(topic, name, "one header of this name", "two")
            if len(data) > MAX_HEADER_BYTES:
                wrong(topic, name, f"at most {MAX_HEADER_BYTES} bytes", len(data))
            values[name] = text_of(data, topic, name)
        return cls(topic, values, textual=True)

    @classmethod
    def of_json(cls, topic: str, value: bytes | None) -> Fields:
        """A JSON object of at most 1 MiB that could be written on as it is (see `strict_json`)."""
        if value is None or len(value) > MAX_JSON_BYTES:
            wrong(topic, "value", f"a JSON object of at most {MAX_JSON_BYTES} bytes", value and len(value))
        try:
            found = strict_json(value)
        except (ValueError, RecursionError) as error:
            raise RecordInvalid(f"{topic}.value: expected JSON in UTF-8: {str(error)[:80]}", field="value") from error
        if not isinstance(found, dict):
            wrong(topic, "value", "a JSON object", found)
        return cls(topic, found)

    @property
    def raw(self) -> Mapping[str, Any]:
        """As they came."""
        return self._values

    def wrong(self, name: str, expected: object) -> NoReturn:
        """Raise RecordInvalid about one field."""
        wrong(self.topic, self._where + name, expected, self._values.get(name))

    def has(self, name: str) -> bool:
        """It is there, and not null."""
        return self._values.get(name) is not None

    def text(self, name: str, default: Any = _MISSING, limit: int = MAX_HEADER_BYTES) -> str:
        """Text, '' only where a default is given."""
        if not self.has(name):
            return str(self._default(name, default, "text"))
        value = self._values[name]
        if not isinstance(value, str) or len(value) > limit:
            self.wrong(name, f"text of at most {limit} characters")
        return value

    def name(self, name: str, default: Any = _MISSING) -> str:
        """A name (see `name_of`)."""
        if not self.has(name):
            return str(self._default(name, default, "a name"))
        return name_of(self._values[name], self.topic, self._where + name)

    def integer(self, name: str, low: int = -INT64, high: int = INT64 - 1, default: Any = _MISSING) -> Any:
        """An integer within bounds: of JSON, or in decimal in a header."""
        if not self.has(name):
            return self._default(name, default, "an integer")
        value = self._values[name]
        if self._textual and _INTEGER.match(value):
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            self.wrong(name, f"an integer from {low} to {high}")
        return value

    def flag(self, name: str, default: Any = _MISSING) -> bool:
        """true or false."""
        if not self.has(name):
            return bool(self._default(name, default, "true or false"))
        value = self._values[name]
        words = {"true": True, "false": False} if self._textual else {}
        found = words.get(value, value) if isinstance(value, str) else value
        if type(found) is not bool:
            self.wrong(name, "true or false")
        return found

    def fraction(self, name: str, default: Any = _MISSING) -> Any:
        """A positive fraction such as 1/90000."""
        if not self.has(name):
            return self._default(name, default, "a fraction such as 1/90000")
        value = self._values[name]
        found = _FRACTION.match(value) if isinstance(value, str) else None
        if found is None:
            self.wrong(name, "a fraction such as 1/90000")
        return Fraction(int(found[1]), int(found[2]))

    def choice(self, name: str, kind: type[E], default: Any = _MISSING) -> E:
        """A word of a closed list."""
        if not self.has(name):
            return self._default(name, default, f"one of {[e.value for e in kind]}")  # type: ignore[no-any-return]
        try:
            return kind(self._values[name])
        except ValueError:
            self.wrong(name, f"one of {[e.value for e in kind]}")

    def names(self, name: str) -> tuple[str, ...]:
        """Names, each once: a JSON list, or comma-separated in a header."""
        value = self._values.get(name)
        parts = value.split(",") if self._textual and isinstance(value, str) else value
        if not isinstance(parts, list) or not 1 <= len(parts) <= 64:
            self.wrong(name, "1 to 64 names")
        found = tuple(name_of(part, self.topic, self._where + name) for part in parts)
        if len(set(found)) < len(found):
            self.wrong(name, "names that differ")
        return found

    def number(self, name: str, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite JSON number within bounds."""
        value: Any = self._values.get(name)
        if not _is_finite(value) or not low <= value <= high:
            self.wrong(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def rows(self, name: str, most: int = 10_000) -> list[Fields]:
        """A list of JSON objects."""
        value = self._values.get(name)
        if not isinstance(value, list) or len(value) > most:
            self.wrong(name, f"a list of at most {most} objects")
        rows = []
        for place, row in enumerate(value):
            if not isinstance(row, dict):
                wrong(self.topic, f"{self._where}{name}[{place}]", "an object", row)
            rows.append(Fields(self.topic, row, f"{self._where}{name}[{place}]."))
        return rows

    def floats(self, name: str, low: int, high: int) -> list[float]:
        """A list of finite numbers, low to high of them."""
        value = self._values.get(name)
        good = isinstance(value, list) and low <= len(value) <= high
        if not good or not all(_is_finite(v) for v in value or ()):
            self.wrong(name, f"{low} to {high} finite numbers" if low != high else f"{low} finite numbers")
        return [float(v) for v in value or ()]

    def object(self, name: str) -> Fields:
        """A JSON object inside."""
        value = self._values.get(name)
        if not isinstance(value, dict):
            self.wrong(name, "an object")
        return Fields(self.topic, value, f"{self._where}{name}.")

    def version(self, name: str) -> int:
        """A model's version: a positive number, in decimal text also in JSON (as Triton names versions)."""
        value = self._values.get(name)
        if not isinstance(value, str) or not _VERSION.match(value):
            self.wrong(name, "a version number as text")
        return int(value)

    def require(self, names: Iterable[str]) -> None:
        """These are there, if only as null."""
        for name in names:
            if name not in self._values:
                wrong(self.topic, self._where + name, "to be there", None)

    def traceparent(self) -> str:
        """W3C Trace Context, '' where there is none."""
        value = self.text("traceparent", "")
        if value and not _TRACEPARENT.match(value):
            self.wrong("traceparent", "a W3C traceparent of version 00")
        return value

    def _default(self, name: str, default: Any, expected: str) -> Any:
        if default is _MISSING:
            self.wrong(name, expected)
        return default


def _is_finite(value: object) -> bool:
    """A number that float32 can hold; JSON's integers have no bound of their own."""
    if type(value) is int:
        return -INT64 <= value < INT64
    return type(value) is float and math.isfinite(value) and abs(value) < 1e30


def _integer(text: str) -> int:
    value = int(text)
    if not -INT64 <= value < INT64:
        raise ValueError(f"{text[:40]}: more than 64 bits")
    return value


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]}: no finite number")
    return value


_STRICT = json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=_float)


def strict_json(data: bytes) -> Any:
    """JSON in UTF-8 that any program could write on as it is. ValueError, RecursionError: it is none, or holds NaN, an
    infinity, an integer over 64 bits, half a surrogate pair, or more than MAX_NESTING levels."""
    found = _STRICT.decode(data.decode("utf-8"))
    if b"\\ud" in data.lower():
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    if data.count(b"[") + data.count(b"{") > MAX_NESTING and _is_deep(found):
        raise ValueError(f"nested over {MAX_NESTING} levels deep")
    return found


def _is_deep(found: Any) -> bool:
    level = [found]
    for _ in range(MAX_NESTING):
        inner = (part.values() if isinstance(part, dict) else part for part in level)
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not level:
            return False
    return True


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """Compact JSON; ValueError for NaN."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def check_schema(fields: Fields, version: int) -> None:
    """The `schema` member of a JSON value: the version that this code reads."""
    if fields.integer("schema") != version:
        fields.wrong("schema", f"version {version}")
