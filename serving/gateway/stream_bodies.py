"""What the stream routes take, and how a source is shown. Addresses are never repeated in an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import orjson

from serving.errors import AddressRefused, ParameterInvalid, RecordInvalid
from serving.ports_index import Place
from serving.records import StreamMessage, decode_stream, encode_stream
from serving.records.fields import NAME
from serving.records.streams import check_secrets

INT64_MOST = (1 << 63) - 1
LIMIT_DEFAULT, LIMIT_MOST = 100, 1000
SECONDS_MOST = 86_400
ADDRESSES = ("address", "publish")
OWN = ("source_id", "state", "supervised", "targets", "sound")  # set by routes of their own, by ingest, or nobody
TAKEN = tuple(f.name for f in fields(StreamMessage) if f.name not in OWN)
_EVENT_ID = re.compile(r"([1-9][0-9]{0,9})/(0|[1-9][0-9]{0,18})/([A-Za-z0-9][A-Za-z0-9._-]{0,63})", re.ASCII)


def source_id_of(text: str) -> str:
    """A source's name out of a path or body. Raises ParameterInvalid."""
    if not NAME.match(text):
        shown = repr(text if len(text) <= 80 else text[:77] + "...")
        raise ParameterInvalid(
            f"source_id: expected 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit, got {shown}"
        )
    return text


def new_stream(body: Mapping[str, Any]) -> StreamMessage:
    """The source that a POST describes. Raises ParameterInvalid, AddressRefused."""
    _known(body, ("source_id", *TAKEN))
    source_id = body.get("source_id")
    if not isinstance(source_id, str):
        raise ParameterInvalid("source_id: expected a name, got none")
    return _stream(source_id_of(source_id), body)


def changed_stream(stream: StreamMessage, body: Mapping[str, Any]) -> StreamMessage:
    """The source after a PATCH. Raises ParameterInvalid, AddressRefused."""
    _known(body, TAKEN)
    before = orjson.loads(encode_stream(stream).value or b"{}")
    changed = _stream(stream.source_id, {name: before[name] for name in TAKEN} | dict(body))
    return replace(changed, targets=stream.targets, sound=stream.sound)


def shown_stream(stream: StreamMessage, redacted: Callable[[str], str]) -> dict[str, Any]:
    """A source as it is answered: without user, password and secret query values."""
    document: dict[str, Any] = orjson.loads(encode_stream(stream).value or b"{}")
    shown = {name: redacted(document[name]) for name in ADDRESSES if document[name]}
    wanted = ("source_id", *TAKEN)
    return {name: (document | shown)[name] for name in wanted}


def results_query(query: Mapping[str, str]) -> tuple[int, int | None, int | None, int]:
    """(from_pts_ns, to_pts_ns, epoch, limit). Raises ParameterInvalid."""
    _known(query, ("from_pts_ns", "to_pts_ns", "epoch", "limit"))
    start = _integer(query, "from_pts_ns", 0, INT64_MOST)
    limit = _integer(query, "limit", 1, LIMIT_MOST)
    return (
        0 if start is None else start,
        _integer(query, "to_pts_ns", 0, INT64_MOST),
        _integer(query, "epoch", 1, (1 << 31) - 1),
        LIMIT_DEFAULT if limit is None else limit,
    )


def events_query(query: Mapping[str, str]) -> int | None:
    """Seconds after which the events end; None: never. Raises ParameterInvalid."""
    _known(query, ("seconds",))
    return _integer(query, "seconds", 1, SECONDS_MOST)


def event_id(header: bytes | None) -> Place | None:
    """Last-Event-ID: epoch/pts_ns/pipeline. Raises ParameterInvalid."""
    if header is None:
        return None
    found = _EVENT_ID.fullmatch(header.decode("latin-1"))
    if found is None or int(found[2]) > INT64_MOST:
        raise ParameterInvalid("Last-Event-ID: expected epoch/pts_ns/pipeline, as events carry it")
    return Place(int(found[1]), int(found[2]), found[3])


def _stream(source_id: str, body: Mapping[str, Any]) -> StreamMessage:
    values = {name: _setting(name, body[name]) for name in TAKEN if name in body}
    if nothing := [name for name, value in values.items() if value is None and name != "lease_s"]:
        raise ParameterInvalid(f"{nothing[0]}: expected a value, got null; leave it out for the default")
    given = {"schema": 1, "source_id": source_id, **values}
    try:
        stream = decode_stream(source_id.encode(), orjson.dumps(given))
        assert stream is not None
        for name in ADDRESSES:
            check_secrets(getattr(stream, name), name)
    except RecordInvalid as error:
        text = error.message.removeprefix("streams.")
        if error.field.split(".")[0] in ADDRESSES:
            raise AddressRefused(text.partition(", got ")[0]) from error
        raise ParameterInvalid(text) from error
    return stream


def _setting(name: str, value: Any) -> Any:
    """2.0 is an integer in JSON Schema (draft 2020-12). Raises ParameterInvalid for what no record takes."""
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    try:
        orjson.dumps(whole, option=orjson.OPT_STRICT_INTEGER)
    except TypeError as error:
        raise ParameterInvalid(f"{name}: expected no integer over 53 bits, and less nesting") from error
    return whole


def _known(given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ParameterInvalid(f"unknown {unknown[0][:60]!r}; expected {', '.join(known)}")


def _integer(query: Mapping[str, str], name: str, low: int, high: int) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 19 or not low <= int(text) <= high:
        raise ParameterInvalid(f"{name}: expected an integer from {low} to {high}, got {text[:40]!r}")
    return int(text)
