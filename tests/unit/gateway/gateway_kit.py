"""What the gateway's tests share."""

from __future__ import annotations

from typing import Any


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """The answer is a complete problem document of that status and code; returns it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["code"] == code and body["status"] == status
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["type"] == f"urn:lockstep:error:{code}"
    assert body["title"] and body["detail"]
    assert "Traceback" not in response.text and "/serving/" not in response.text
    return body
