"""Asking a server that runs: what it sheds is asked again, an error of the request is told at once."""

from __future__ import annotations

from pathlib import Path

import cv2
import httpx2 as httpx
import numpy as np
import pytest

from converters import runners
from converters.runners import GatewayAnswered, GatewayRunner
from converters.samples import Sample

PNG = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
RIGHT = {"classes": [{"class_id": 1, "label": "b", "score": 0.9}]}


def runner(statuses: list[int], seen: list[httpx.Request]) -> GatewayRunner:
    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        status = statuses.pop(0)
        problem = {"code": "some_code", "detail": "why"}
        return httpx.Response(status, json=RIGHT if status == 200 else problem)

    made = GatewayRunner("http://127.0.0.1:1", "m", "classification")
    made._client = httpx.Client(transport=httpx.MockTransport(answer))
    return made


def test_what_a_busy_server_sheds_is_asked_again_with_time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "PAUSE_S", 0.0)
    seen: list[httpx.Request] = []
    with runner([429, 504, 503, 200], seen) as gateway:
        found = gateway.ask(Sample("s.png", Path("s.png"), PNG), {"top_k": 1})
    assert found.document == RIGHT and len(seen) == 4
    assert seen[0].headers["x-request-timeout-ms"] == "60000" and seen[0].url.query == b"top_k=1"


def test_a_server_that_sheds_for_ever_is_told_with_its_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "TIMEOUT_S", 0.0)
    with runner([429], []) as gateway, pytest.raises(GatewayAnswered, match="429 some_code: why"):
        gateway.ask(Sample("s.png", Path("s.png"), PNG), {})


def test_an_error_of_the_request_is_not_asked_again() -> None:
    seen: list[httpx.Request] = []
    with runner([422], seen) as gateway, pytest.raises(GatewayAnswered, match="422"):
        gateway.ask(Sample("s.png", Path("s.png"), PNG), {})
    assert len(seen) == 1
