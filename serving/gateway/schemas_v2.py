"""OpenAPI description of the KServe V2 routes."""

from __future__ import annotations

from typing import Any

from serving.gateway.catalogue import Catalogue


def paths(catalogue: Catalogue) -> dict[str, Any]:
    """Paths under /v2."""
    return {}
