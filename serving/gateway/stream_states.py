"""The state of a source out of what its roles say; what nobody says is null."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.ports_index import Json

Roles = Mapping[str, Json]


def state_of(roles: Roles, age_s: float | None = None) -> dict[str, Any]:
    """epoch, fps_in, fps_analysed, last_result_age_s, drops by reason, alignment, balance."""
    ingest, worker = roles.get("ingest", {}), roles.get("worker", {})
    mixer, accountant = roles.get("mixer", {}), roles.get("accountant", {})
    return {
        "running": bool(ingest.get("connected", bool(ingest))) if ingest else False,
        "epoch": _first(_integer, ingest.get("epoch"), mixer.get("epoch"), accountant.get("epoch")),
        "fps_in": _number(ingest.get("fps_in")),
        "fps_analysed": _number(worker.get("fps_analysed")),
        "last_result_age_s": None if age_s is None else round(age_s, 3),
        "drops": _counts(accountant.get("dropped")) | _counts(accountant.get("dead")),
        "alignment": _alignment(mixer),
        "balance": {name: _integer(accountant.get(name)) for name in ("accepted", "results", "in_flight")},
        "error": _text(ingest.get("error")),
    }


def _alignment(mixer: Json) -> dict[str, Any]:
    """aligned: no result ever came with another PTS than its frame's; null where no mixer shows the source."""
    mismatched = _integer(mixer.get("mismatched"))
    counts = {name: _integer(mixer.get(name)) for name in ("shown", "late", "missing", "mismatched")}
    return {"aligned": None if mismatched is None else mismatched == 0, **counts}


def _first(kind: Any, *values: Any) -> Any:
    return next((found for value in values if (found := kind(value)) is not None), None)


def _integer(value: Any) -> int | None:
    return value if type(value) is int else None


def _number(value: Any) -> float | None:
    return round(float(value), 3) if type(value) in (int, float) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _counts(value: Any) -> dict[str, int]:
    return {k: v for k, v in value.items() if type(v) is int} if isinstance(value, dict) else {}
