"""Errors at the edge: one table from code to HTTP status, and RFC 9457 problem documents. docs/errors.md is its print.

A caller sees the code, a title of ours and, for faults of its own input, the message of the error class. What went
wrong inside (addresses, paths, exception texts) goes to the log under the request's id, never into an answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.responses import Response

from serving import errors_audio as errors_audio  # its codes stand in the table too
from serving import errors_gallery as errors_gallery  # and its
from serving import targets as targets  # and its
from serving.errors import InputError, LockstepError

PROBLEM_JSON = "application/problem+json"
TYPE_PREFIX = "urn:lockstep:error:"
RETRY_AFTER_S = 1


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    status: int
    title: str
    hint: str = ""
    retry_after: bool = False


TABLE: Mapping[str, Row] = {
    "input_invalid": Row(422, "The input does not suit this model", "see GET /v1/models/{name}"),
    "image_invalid": Row(422, "Not a readable picture", "send a complete JPEG, PNG or WebP file"),
    "image_unsupported": Row(415, "This picture format or mode is not served", "send a still JPEG, PNG or WebP"),
    "image_too_large": Row(413, "The picture has too many pixels", "scale it down before sending"),
    "audio_invalid": Row(422, "Not a readable sound file", "send a complete WAV or FLAC file"),
    "audio_unsupported": Row(415, "This sound format is not served", "send WAV or FLAC, 8 to 96 kHz, up to 8 channels"),
    "audio_too_long": Row(413, "The sound is too long", "send it in parts"),
    "body_invalid": Row(400, "The body is not what its Content-Type promised", "see /docs for the forms of a body"),
    "body_too_large": Row(413, "The body is larger than the limit", "send fewer or smaller pictures in one request"),
    "body_timeout": Row(408, "The body came in too slowly", "send it again on a better connection"),
    "media_type_unsupported": Row(
        415,
        "This Content-Type or Content-Encoding is not taken",
        "for a picture: curl -H 'Content-Type: image/jpeg' --data-binary @FILE; see /docs",
    ),
    "parameter_invalid": Row(422, "An unknown parameter, or a value outside its range", "see GET /v1/models/{name}"),
    "not_found": Row(404, "There is no such model, version, stream or route", "GET /v1/models lists the models"),
    "target_refused": Row(409, "The source takes no further target now", "see the targets it has"),
    "target_invalid": Row(422, "A box that cannot be followed", "give a box inside the picture"),
    "address_refused": Row(422, "A source may not be at this address", "see docs/rest.md, Streams"),
    "stream_exists": Row(409, "Another source is registered under this name", "change it with PATCH, or delete it"),
    "gallery_exists": Row(409, "Another gallery has this name", "choose another name, or delete that one"),
    "gallery_mismatch": Row(409, "Another chain of models made this gallery's vectors", "see docs/galleries.md"),
    "nothing_to_enrol": Row(422, "Nothing in the picture can be enrolled", "send a picture with one face"),
    "several_to_enrol": Row(422, "More than one in the picture could be enrolled", "name one by `roi`"),
    "quality_too_low": Row(422, "Too small, blurred or turned away to be enrolled", "send a better picture"),
    "gallery_busy": Row(503, "Another writer holds the gallery", "try again after Retry-After seconds", True),
    "gallery_damaged": Row(500, "The gallery's files do not hold together", "restore its folder from a copy"),
    "gallery_not_written": Row(507, "The gallery could not be written", "free space on the server", True),
    "method_not_allowed": Row(405, "This route does not take this method", "the Allow header lists the methods"),
    "http_invalid": Row(400, "Not a well-formed HTTP request"),
    "overloaded": Row(429, "Too many requests are in flight", "try again after Retry-After seconds", True),
    "deadline_exceeded": Row(504, "The time of the request is over", "allow more time in X-Request-Timeout-Ms"),
    "unavailable": Row(503, "The model is not available now", "see /readyz, try again after Retry-After", True),
    "streams_off": Row(503, "This gateway has no streams", "configure `kafka`", True),
    "streams_unavailable": Row(503, "The streams are not available now", "try again after Retry-After", True),
    "index_unavailable": Row(503, "Results and states are not available now", "try again after Retry-After", True),
    "engine_failed": Row(500, "The model failed on this input", "report it with the request_id"),
    "serving_failed": Row(500, "The request could not be answered", "report it with the request_id"),
    "internal": Row(500, "The gateway failed", "report it with the request_id"),
}

# A message of ours never holds these; one that does came from elsewhere and is not shown.
_UNFIT = re.compile(r"0x[0-9a-fA-F]{4,}|Traceback|File \"|(?<![\w.])/(?:\w[\w.-]*/)+\w|\bline \d+, in\b|[\x00-\x08]")


def row_of(code: str) -> tuple[str, Row]:
    """The code that is shown and its row; a code that has none (a class of another process) is internal."""
    return (code, TABLE[code]) if code in TABLE else ("internal", TABLE["internal"])


def problem(error: Exception, request_id: str) -> tuple[int, dict[str, Any]]:
    """Status and RFC 9457 members of an exception."""
    code, row = row_of(error.code if isinstance(error, LockstepError) else "internal")
    detail, hint = row.title, row.hint
    if isinstance(error, InputError) and not _UNFIT.search(error.message):
        detail, hint = error.message, error.hint or row.hint
    return row.status, document(code, detail, request_id, hint=hint)


def document(code: str, detail: str, request_id: str, *, hint: str = "") -> dict[str, Any]:
    """The members of a problem."""
    row = TABLE[code]
    return {
        "type": f"{TYPE_PREFIX}{code}",
        "title": row.title,
        "status": row.status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
        "hint": hint or row.hint,
    }


def response(members: Mapping[str, Any], *, kserve: bool = False, headers: Mapping[str, str] | None = None) -> Response:
    """The answer. Under /v2 the extension member `error` repeats the detail: KServe clients read only that."""
    given = dict(headers or {})
    if TABLE[members["code"]].retry_after:
        given["retry-after"] = str(RETRY_AFTER_S)
    body = {**members, "error": f"{members['code']}: {members['detail']}"} if kserve else members
    return Response(orjson.dumps(body), members["status"], given, PROBLEM_JSON)


def markdown() -> str:
    """docs/errors.md."""
    lines = [
        "# Errors of the gateway",
        "",
        "Written from `serving/gateway/errors.py` (`python -m serving.gateway.errors > docs/errors.md`); a test",
        "compares the two.",
        "",
        f"Every error is `{PROBLEM_JSON}` (RFC 9457): `type` (`{TYPE_PREFIX}<code>`), `title`, `status`, `detail`,",
        "`code` (stable; programs should read this one), `request_id` (also in the header `X-Request-ID`) and `hint`.",
        "Under `/v2` the member `error` is added, which KServe clients read. 429: shed at the door; 503: a dependency",
        "is down; both carry `Retry-After`. 504: the deadline is over.",
        "",
        "| code | status | meaning | what to do |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| `{code}` | {row.status} | {row.title} | {row.hint or '-'} |" for code, row in TABLE.items()]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown())
