"""/v1/galleries: enrol, update, delete, search, list. Pictures go through the gallery's own pipeline on the server."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from serving.bundle import ModelBundle
from serving.errors import BodyInvalid, ParameterInvalid
from serving.gallery import Facts, Rule
from serving.gallery.asking import Found, found_in, rule_of, to_enrol
from serving.gateway.bodies import media_type, read_json, read_pictures
from serving.gateway.catalogue import Catalogue
from serving.gateway.context import Context, RequestState, body_of, context_of, deadline_of
from serving.gateway.gallery_desk import GalleryDesk
from serving.gateway.inference import infer_picture
from serving.gateway.parameters import from_query
from serving.gateway.routing import add

JSON = "application/json"
ONE = "/v1/galleries/{gallery}"
SUBJECT = ONE + "/subjects/{subject}"
MAX_TOP = 50
_OWN_QUERY = ("label", "top")


def served_galleries(catalogue: Catalogue) -> list[ModelBundle]:
    """The pipelines that can enrol: without one there are no galleries."""
    return [bundle for bundle in catalogue if any(step.do == "match" for step in bundle.spec.steps)]


def register(app: FastAPI) -> None:
    """Put this file's routes into the app."""
    for method, path, handler in (
        ("GET", "/v1/galleries", galleries), ("POST", "/v1/galleries", create), ("GET", ONE, gallery),
        ("PATCH", ONE, change), ("DELETE", ONE, delete), ("POST", ONE + "/search", search),
        ("GET", ONE + "/duplicates", duplicates), ("GET", SUBJECT, subject),
        ("POST", SUBJECT, enrol), ("PUT", SUBJECT, enrol), ("PATCH", SUBJECT, relabel), ("DELETE", SUBJECT, remove),
    ):  # fmt: skip
        add(app, method, path, handler)


async def galleries(request: Request) -> Response:
    """All galleries."""
    return _json({"galleries": await _desk(request).names()})


async def create(request: Request) -> Response:
    """`{name, pipeline, threshold?, margin?}`."""
    body = await _json_body(request, {"name": str, "pipeline": str}, {"threshold": float, "margin": float})
    _pipeline(context_of(request), body["pipeline"])
    return _json(await _desk(request).create(Facts(**body)), 201)


async def gallery(request: Request) -> Response:
    """One gallery with its subjects."""
    return _json(await _desk(request).one(_name(request)))


async def change(request: Request) -> Response:
    """`{threshold?, margin?}`, or `{far}`: a threshold from the wanted false-accept rate."""
    body = await _json_body(request, {}, {"threshold": float, "margin": float, "far": float})
    if not body or ("far" in body and "threshold" in body):
        raise BodyInvalid("expected threshold, margin or far, and not both threshold and far")
    return _json(await _desk(request).change(_name(request), body))


async def delete(request: Request) -> Response:
    """The gallery with all it holds."""
    await _desk(request).delete(_name(request))
    return Response(None, 204)


async def search(request: Request) -> Response:
    """A picture, in any form of a body: who everybody in it is. `{embedding, top?}` as JSON: who this is."""
    context, desk, name = context_of(request), _desk(request), _name(request)
    facts = await desk.facts(name)
    bundle = _pipeline(context, facts.pipeline)
    rule = rule_of(facts, bundle.spec)
    body = None
    if media_type(RequestState.of(request).headers.get(b"content-type"))[0] == JSON:
        body = await body_of(request, deadline_of(request))
        given = read_json(body)
        if "embedding" in given:
            vector, top = _embedding(given, facts)
            return _json({"results": await desk.search_vector(name, rule, vector, top)})
    top = _top(_split(request.scope["query_string"])[0].get("top", 5))  # before the picture is paid for
    _, found, _ = await _asked(request, bundle, body)
    return _json({"results": await desk.search(name, rule, found, top)})


async def duplicates(request: Request) -> Response:
    """Groups of near duplicates at `threshold`, the gallery's own where none is given."""
    context, desk, name = context_of(request), _desk(request), _name(request)
    facts = await desk.facts(name)
    given = dict(request.query_params.multi_items())
    if unknown := set(given) - {"threshold"}:
        raise ParameterInvalid(f"unknown parameter {sorted(unknown)[0][:60]!r}; expected threshold")
    if "threshold" not in given:
        return _json(await desk.duplicates(name, rule_of(facts, _pipeline(context, facts.pipeline).spec)))
    try:
        rule = Rule(float(given["threshold"]))
    except ValueError:
        raise ParameterInvalid(f"threshold: expected a number, got {given['threshold'][:40]!r}") from None
    return _json(await desk.duplicates(name, rule))


async def subject(request: Request) -> Response:
    """One subject."""
    return _json(await _desk(request).subject(_name(request), request.path_params["subject"]))


async def enrol(request: Request) -> Response:
    """A picture with one face (or what the pipeline looks for). POST adds a sample, PUT puts it in place of all."""
    context, desk, name = context_of(request), _desk(request), _name(request)
    facts = await desk.facts(name)
    own, found, picture = await _asked(request, _pipeline(context, facts.pipeline))
    one = to_enrol(found)
    about = {"picture_sha256": hashlib.sha256(picture).hexdigest()}
    replaces = request.method == "PUT"
    label = str(own.get("label", ""))
    return _json(await desk.enrol(name, request.path_params["subject"], one, about, label, replaces), 201)


async def relabel(request: Request) -> Response:
    """`{label}`."""
    body = await _json_body(request, {"label": str}, {})
    return _json(await _desk(request).relabel(_name(request), request.path_params["subject"], body["label"]))


async def remove(request: Request) -> Response:
    """A subject with all its samples."""
    await _desk(request).remove(_name(request), request.path_params["subject"])
    return Response(None, 204)


async def _asked(
    request: Request, bundle: ModelBundle, body: bytes | None = None
) -> tuple[Mapping[str, Any], list[Found], bytes]:
    """The picture through the pipeline: our own query parameters, what was found, the picture's bytes. body: where it
    was read already."""
    context, state = context_of(request), RequestState.of(request)
    deadline = deadline_of(request)
    own, rest = _split(request.scope["query_string"])
    query = from_query(rest, bundle.spec)
    context.in_flight.check()
    body = await body_of(request, deadline) if body is None else body
    pictures = read_pictures(state.headers.get(b"content-type"), body, bundle.spec)
    if len(pictures.encoded) != 1:
        raise BodyInvalid(f"expected one picture, got {len(pictures.encoded)}")
    parameters = {**query, **pictures.parameters, "embeddings": True}
    with context.in_flight.take(1):
        answer, _ = await infer_picture(context, bundle, pictures.encoded[0], parameters, deadline, state.request_id)
    return own, found_in(orjson.loads(answer)), pictures.encoded[0]


def _embedding(given: dict[str, Any], facts: Facts) -> tuple[list[float], int]:
    """The vector of `{embedding, top?}`, and `top`."""
    vector = _checked(given, {"embedding": list}, {"top": int})["embedding"]
    if not vector or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in vector):
        raise BodyInvalid("embedding: expected a list of numbers")
    if facts.dimension and len(vector) != facts.dimension:
        raise ParameterInvalid(f"embedding: expected {facts.dimension} numbers, got {len(vector)}")
    return vector, _top(given.get("top", 5))


def _split(query: bytes) -> tuple[dict[str, str], bytes]:
    """Our own parameters and the rest of the query string, which is the pipeline's."""
    from urllib.parse import parse_qsl

    parts = query.split(b"&") if query else []
    mine = [part for part in parts if part.partition(b"=")[0].decode("latin-1") in _OWN_QUERY]
    pairs = [parse_qsl(part.decode("latin-1"), keep_blank_values=True)[0] for part in mine]
    if len(dict(pairs)) != len(pairs):
        raise ParameterInvalid("label and top are given once")
    return dict(pairs), b"&".join(part for part in parts if part not in mine)


def _top(value: Any) -> int:
    text = str(value)
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_TOP:
        raise ParameterInvalid(f"top: expected 1 to {MAX_TOP}, got {text[:40]!r}")
    return int(text)


async def _json_body(request: Request, needed: Mapping[str, type], more: Mapping[str, type]) -> dict[str, Any]:
    """A JSON object of these keys and types. Raises BodyInvalid."""
    return _checked(read_json(await body_of(request, deadline_of(request))), needed, more)


def _checked(value: dict[str, Any], needed: Mapping[str, type], more: Mapping[str, type]) -> dict[str, Any]:
    for name, item in value.items():
        kind = {**needed, **more}.get(name)
        if kind is None:
            raise BodyInvalid(f"unknown key {name[:60]!r}; expected {', '.join({**needed, **more})}")
        fits = isinstance(item, int | float) if kind is float else isinstance(item, kind)
        if not fits or (isinstance(item, bool) and kind is not bool):
            raise BodyInvalid(f"{name}: expected {kind.__name__}, got {type(item).__name__}")
    if absent := [name for name in needed if name not in value]:
        raise BodyInvalid(f"expected the key {absent[0]!r}")
    return value


def _pipeline(context: Context, name: str) -> ModelBundle:
    bundle = context.catalogue.get(name)
    if not any(step.do == "match" for step in bundle.spec.steps):
        known = ", ".join(b.name for b in served_galleries(context.catalogue))
        raise ParameterInvalid(f"pipeline: {name} matches no gallery; there are: {known}")
    return bundle


def _desk(request: Request) -> GalleryDesk:
    desk: GalleryDesk | None = context_of(request).galleries
    assert desk is not None
    return desk.until(deadline_of(request))


def _name(request: Request) -> str:
    return str(request.path_params["gallery"])


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, None, JSON)
