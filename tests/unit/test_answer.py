"""`lockstep infer --server`: what is no gateway is told in one line."""

from __future__ import annotations

import httpx2 as httpx
import pytest

from serving.cli import answer
from serving.errors import Unavailable


@pytest.mark.parametrize(
    ("status", "content"),
    [(200, b"<html>welcome</html>"), (404, b"\xff\xfe"), (502, b'{"error": "upstream"}'), (200, b"[1]"), (200, b"{}")],
)
def test_an_answer_that_no_gateway_gives_is_told(monkeypatch: pytest.MonkeyPatch, status: int, content: bytes) -> None:
    monkeypatch.setattr(answer.httpx, "post", lambda *_, **__: httpx.Response(status, content=content))
    with pytest.raises(Unavailable, match=rf"^http://127.0.0.1:9/v1/models/m/infer: {status} with .*expected") as told:
        answer.answer_from_server("http://127.0.0.1:9", "m", b"", "image/jpeg", {})
    assert "lockstep serve" in told.value.hint


def test_an_address_that_is_none_is_told() -> None:
    with pytest.raises(Unavailable, match=r"^http://\[::1: "):
        answer.answer_from_server("http://[::1", "m", b"", "image/jpeg", {})
