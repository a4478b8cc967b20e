"""Triton's statuses and texts as our classes. The texts are those of a real run (tests/contract meets most of them)."""

from __future__ import annotations

import pytest

from serving.adapters.triton_errors import refusal_of
from serving.errors import (
    BodyInvalid,
    BodyTooLarge,
    DeadlineExceeded,
    EngineFailed,
    ImageTooLarge,
    NotFound,
    Overloaded,
    ServingError,
    Unavailable,
)

TABLE: list[tuple[str, str, bool, type[ServingError], bool]] = [
    ("UNAVAILABLE", "[request id: <id_unknown>] Exceeds maximum queue size", True, Overloaded, False),
    ("UNAVAILABLE", "Request timeout expired", True, DeadlineExceeded, False),
    ("DEADLINE_EXCEEDED", "Deadline Exceeded", True, DeadlineExceeded, False),
    ("UNAVAILABLE", "failed to connect to all addresses; last error: ipv4:127.0.0.1:1", True, Unavailable, True),
    ("UNAVAILABLE", "Socket closed", True, Unavailable, True),
    ("INTERNAL", "Stub process 'm_0_0' is not healthy.", True, Unavailable, True),
    ("INVALID_ARGUMENT", "lockstep:image_too_large: 100 megapixels", True, ImageTooLarge, False),
    ("INTERNAL", "[request id: 7] lockstep:engine_failed: x", True, EngineFailed, False),
    ("INVALID_ARGUMENT", "in ensemble 'm', lockstep:image_too_large: x", True, ImageTooLarge, False),
    ("UNAVAILABLE", "in ensemble 'm', [request id: 7] Exceeds maximum queue size", True, Overloaded, False),
    ("INTERNAL", "lockstep:no_such_code: x", True, EngineFailed, False),
    ("NOT_FOUND", "Request for unknown model: 'm' is not found", False, NotFound, False),
    ("NOT_FOUND", "Request for unknown model: 'm' is not found", True, Unavailable, True),
    ("NOT_FOUND", "Request for unknown model: 'm' version 9 is not found", False, NotFound, False),
    ("NOT_FOUND", "Request for unknown model: 'm' has no available versions", True, Unavailable, True),
    ("INVALID_ARGUMENT", "unexpected inference input 'x' for model 'm'", True, BodyInvalid, False),
    ("RESOURCE_EXHAUSTED", "Sent message larger than max", True, BodyTooLarge, False),
    ("INTERNAL", "RuntimeError: boo\n\nAt:\n  /srv/secret/model.py(23): execute\n", True, EngineFailed, False),
    ("UNKNOWN", "", True, EngineFailed, False),
]


@pytest.mark.parametrize(("status", "text", "known", "kind", "down"), TABLE)
def test_table(status: str, text: str, known: bool, kind: type[ServingError], down: bool) -> None:
    refusal = refusal_of(status, text, "m", known)
    assert (type(refusal.error), refusal.down) == (kind, down)
    assert "secret" not in str(refusal.error)


def test_the_backends_text_is_kept_without_the_code() -> None:
    error = refusal_of("INVALID_ARGUMENT", "lockstep:image_too_large: 100 megapixels (scale it)", "m", True).error
    assert str(error) == "100 megapixels (scale it)"


@pytest.mark.parametrize(
    "words",
    [
        "lockstep:overloaded: x",
        "no available versions",
        "Stub process not healthy",
        "Stub process 'm_0_0' is not healthy.",
        "Exceeds maximum queue size",
        "Request timeout expired",
    ],
)
@pytest.mark.parametrize("what", ["input", "output"])
@pytest.mark.parametrize("prefix", ["", "[request id: 7] ", "in ensemble 'm', [request id: 7] "])
def test_a_callers_text_cannot_choose_the_class(words: str, what: str, prefix: str) -> None:
    text = f"{prefix}unexpected inference {what} '{words}' for model 'm'"
    refusal = refusal_of("INVALID_ARGUMENT", text, "m", True)
    assert (type(refusal.error), refusal.down) == (BodyInvalid, False)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ("INTERNAL", "no available versions"),
        ("INTERNAL", "Exceeds maximum queue size"),
        ("INTERNAL", "Request timeout expired"),
    ],
)
def test_a_text_counts_under_its_own_status_only(status: str, text: str) -> None:
    refusal = refusal_of(status, f"KeyError: '{text}'", "m", True)
    assert (type(refusal.error), refusal.down) == (EngineFailed, False)
