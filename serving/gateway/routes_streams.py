"""/v1/streams: sources registered, changed and removed; their state, results by PTS, live events and mixed video.

Registration is a record on `streams`, answered after its delivery report; whoever runs ingest, workers and mixers
follows the topic. States and results come from the index. Without Kafka every route here answers 503 and the models go
on.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from serving.errors import (
    AddressRefused,
    IndexUnavailable,
    NotFound,
    ParameterInvalid,
    SourceError,
    StreamExists,
    StreamsOff,
)
from serving.gateway.bodies import read_json
from serving.gateway.context import RequestState, body_of, context_of, deadline_of
from serving.gateway.parameters import pairs_of
from serving.gateway.routing import DirectRoute, add
from serving.gateway.stream_bodies import (
    changed_stream,
    event_id,
    events_query,
    new_stream,
    results_query,
    shown_stream,
    source_id_of,
)
from serving.gateway.stream_feed import EventStream
from serving.gateway.stream_states import state_of
from serving.gateway.streams import StreamServices
from serving.ports_index import Latest, Page, ResultIndex
from serving.records import StreamMessage, encode_stream
from serving.records.streams import StreamState

JSON = "application/json"
ONE = "/v1/streams/{source_id}"
HLS_FILE = re.compile(r"index\.m3u8|init-[0-9]{3,6}\.mp4|segment-[0-9]{5,9}\.(m4s|json)", re.ASCII)
HLS_TYPES = {"m3u8": "application/vnd.apple.mpegurl", "mp4": "video/mp4", "m4s": "video/iso.segment", "json": JSON}


def register(app: FastAPI) -> None:
    """Put this file's routes into the app."""
    # The first of them: routing goes by the decoded path.
    app.router.routes.append(_SlashInName("/v1/streams/{source_id:path}", _slash, include_in_schema=False))
    for method, path, handler in (
        ("POST", "/v1/streams", create), ("GET", "/v1/streams", streams), ("GET", ONE, stream), ("PATCH", ONE, change),
        ("DELETE", ONE, delete), ("GET", f"{ONE}/results", results), ("GET", f"{ONE}/events", events),
        ("GET", f"{ONE}/hls/{{file}}", hls),
    ):  # fmt: skip
        add(app, method, path, handler)


# -- the registry ----------------------------------------------------------------------------------------------------


async def create(request: Request) -> Response:
    """Register a source. The same again is answered the same; another under its name is refused."""
    services, deadline = services_of(request), deadline_of(request)
    services.table.check_up()
    given = new_stream(read_json(await body_of(request, deadline)))
    async with services.alone(deadline, given.source_id):
        wanted, stands = await _beside_known(services, deadline, given)
        if not stands:
            await _check(services, deadline, wanted)
            wanted, stands = await _beside_known(services, deadline, given)  # the check may take seconds
        if not stands:
            await write(services, deadline, wanted)
    headers = {"location": f"/v1/streams/{wanted.source_id}"}
    return json_response(shown_stream(wanted, services.redacted), 200 if stands else 201, headers)


async def change(request: Request) -> Response:
    """Change some of a source's settings; ingest opens a new epoch where it reads it otherwise."""
    services, deadline = services_of(request), deadline_of(request)
    source_id = source_id_of(request.path_params["source_id"])
    services.table.check_up()
    body = read_json(await body_of(request, deadline))
    async with services.alone(deadline, source_id):
        await _check(services, deadline, changed_stream(await as_logged(services, deadline, source_id), body))
        stream = changed_stream(await as_logged(services, deadline, source_id), body)  # the check may take seconds
        stream = replace(stream, supervised=True)
        await write(services, deadline, stream)
    return json_response(shown_stream(stream, services.redacted))


async def delete(request: Request) -> Response:
    """Take a source away: its ingest ends and its ledger closes; its results stay for their time."""
    services, deadline = services_of(request), deadline_of(request)
    source_id = source_id_of(request.path_params["source_id"])
    services.table.check_up()
    async with services.alone(deadline, source_id):
        stream = await as_logged(services, deadline, source_id)
        await write(services, deadline, replace(stream, state=StreamState.REMOVED))
    return Response(None, 204)


async def streams(request: Request) -> Response:
    """All registered sources with their states; states are null while the index is away."""
    services, deadline = services_of(request), deadline_of(request)
    services.table.check_up()
    found = services.table.active()
    names = [one.source_id for one in found]

    def look(index: ResultIndex) -> dict[str, Any]:
        roles = index.states(names)
        return {name: state_of(roles.get(name, {}), index.latest(name).age_s) for name in names}

    try:
        states = await services.ask(deadline, look)
    except IndexUnavailable:
        states = {}
    rows = [shown_stream(one, services.redacted) | {"state": states.get(one.source_id)} for one in found]
    return json_response({"streams": rows})


async def stream(request: Request) -> Response:
    """One source: how it is read, and how it goes."""
    services, deadline = services_of(request), deadline_of(request)
    source_id = source_id_of(request.path_params["source_id"])
    services.table.check_up()
    found = await registered(services, deadline, source_id)

    def look(index: ResultIndex) -> tuple[Any, Latest]:
        return index.states([source_id])[source_id], index.latest(source_id)

    roles, latest = await services.ask(deadline, look)
    state = state_of(roles, latest.age_s)
    document = shown_stream(found, services.redacted)
    return json_response(document | {"state": state, "roles": roles, "latest": dict(latest.documents)})


# -- results ---------------------------------------------------------------------------------------------------------


async def results(request: Request) -> Response:
    """Results with from_pts_ns <= pts_ns < to_pts_ns of one epoch (the newest), in the order of their PTS."""
    services, deadline = services_of(request), deadline_of(request)
    source_id = source_id_of(request.path_params["source_id"])
    start, stop, epoch, limit = results_query(pairs_of(request.scope["query_string"]))
    services.table.check_up()

    def look(index: ResultIndex) -> tuple[int | None, Page]:
        wanted = epoch if epoch is not None else max(index.epochs(source_id), default=None)
        return wanted, Page(()) if wanted is None else index.results(source_id, wanted, start, stop, limit)

    found, page = await services.ask(deadline, look)
    if found is None or not page.documents:
        await _heard_of(services, deadline, source_id)
    document = {"source_id": source_id, "epoch": found, "results": list(page.documents)}
    return json_response(document | {"next_from_pts_ns": page.next_pts_ns})


async def events(request: Request) -> Response:
    """Results as they are recorded, as server-sent events in the order of (epoch, pts_ns)."""
    services, deadline = services_of(request), deadline_of(request)
    context, state = context_of(request), RequestState.of(request)
    source_id = source_id_of(request.path_params["source_id"])
    seconds = events_query(pairs_of(request.scope["query_string"]))
    after = event_id(state.headers.get(b"last-event-id"))
    services.table.check_up()
    await _heard_of(services, deadline, source_id)
    feed = EventStream(services, source_id, after, seconds, lambda: context.draining)
    await feed.begin(deadline)
    return feed


async def hls(request: Request) -> Response:
    """A file of the mixed video: index.m3u8 and what it lists, and the table of each segment."""
    services = services_of(request)
    source_id, name = source_id_of(request.path_params["source_id"]), request.path_params["file"]
    if not HLS_FILE.fullmatch(name):
        raise NotFound(
            f"no such file of a mixed video: {name[:60]!r}", hint=f"GET /v1/streams/{source_id}/hls/index.m3u8"
        )
    path = services.mixed_dir / source_id / name
    data = await services.call(deadline_of(request), lambda: _file(path))
    if data is None:
        raise NotFound(f"{source_id}: there is no {name}", hint="a source has mixed video with mixed: true and a mixer")
    return Response(data, 200, {"cache-control": "no-cache"}, HLS_TYPES[name.rpartition(".")[2]])


# -- inside ----------------------------------------------------------------------------------------------------------


def services_of(request: Request) -> StreamServices:
    """Raises StreamsOff."""
    services = context_of(request).streams
    if services is None:
        raise StreamsOff("no Kafka is configured")
    return services


def _file(path: Path) -> bytes | None:
    """A regular file in its folder; neither may be a link to somewhere else."""
    if path.parent.is_symlink():
        return None
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        return file.read() if stat.S_ISREG(os.fstat(handle).st_mode) else None


async def registered(services: StreamServices, deadline: float, source_id: str) -> StreamMessage:
    """An active source; one that is not known here yet may be on the log already. Raises NotFound."""
    found = services.table.get(source_id)
    return found if found is not None and found.active else await as_logged(services, deadline, source_id)


async def as_logged(services: StreamServices, deadline: float, source_id: str) -> StreamMessage:
    """An active source as the log has it now. Raises NotFound."""
    await services.call(deadline, lambda: services.table.refresh(source_id))
    found = services.table.get(source_id)
    if found is None or not found.active:
        raise NotFound(f"no source {source_id!r} is registered", hint="GET /v1/streams lists the sources")
    return found


async def write(services: StreamServices, deadline: float, stream: StreamMessage) -> None:
    """Acknowledged and read back."""
    await services.call(deadline, lambda: services.table.write(encode_stream(stream)))


async def _beside_known(services: StreamServices, deadline: float, given: StreamMessage) -> tuple[StreamMessage, bool]:
    """The source as it will stand on the log, and whether it does already. Raises StreamExists."""
    await services.call(deadline, lambda: services.table.refresh(given.source_id))
    known = services.table.get(given.source_id)
    if known is None or not known.active:
        return given, False
    if known != replace(given, targets=known.targets):
        raise StreamExists(f"{given.source_id}: another source is registered under this name")
    return known, True


async def _heard_of(services: StreamServices, deadline: float, source_id: str) -> None:
    """NotFound for a source that was never registered and has no results; a stranger's own ingest need not register."""
    if services.table.get(source_id) is not None:
        return
    await services.call(deadline, lambda: services.table.refresh(source_id))
    if services.table.get(source_id) is not None:
        return
    if services.index is None or not await services.ask(deadline, lambda index: index.epochs(source_id)):
        raise NotFound(f"nothing is known of a source {source_id!r}", hint="GET /v1/streams lists the sources")


async def _check(services: StreamServices, deadline: float, stream: StreamMessage) -> None:
    try:
        await services.check_source(deadline, stream)
    except SourceError as error:
        raise AddressRefused(error.message, hint=error.hint) from error


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer that nobody keeps."""
    return Response(orjson.dumps(value), status, {"cache-control": "no-store", **(headers or {})}, JSON)


class _SlashInName(DirectRoute):
    """A name with an encoded slash would otherwise be another route's path, or none."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Only where the path as it was sent has an encoded slash in the name, then for every method."""
        raw: bytes = scope.get("raw_path") or b""
        name = raw.split(b"/", 4)[3:4]
        match, found = super().matches(scope) if name and b"%2f" in name[0].lower() else (Match.NONE, {})
        return Match.NONE if match is Match.NONE else Match.FULL, found

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """No 405: there is no such path."""
        await self.app(scope, receive, send)


async def _slash(request: Request) -> Response:
    source_id_of(request.path_params["source_id"])
    raise ParameterInvalid("source_id: expected no slash in a name")
