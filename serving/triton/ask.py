"""Each certified model's canary, sent to a running Triton and judged: the health check of a Triton of its own.

Triton says ready while the process of a Python model is dead, so its own readiness is no health check.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from serving.bundle import catalogue, newest_certified
from serving.config import Settings
from serving.errors import CertificateRefused, ServingError
from serving.triton.canary import Canary
from serving.triton.derive import canary_of


def ask_canaries(
    settings: Settings, models: Sequence[str], url: str, target: str = "cpu", timeout_s: float = 4.0
) -> dict[str, str]:
    """What is wrong with each model, "" where nothing is. models: names, or none for all that are certified.

    Raises CertificateRefused for one that may not be served, or where none may; NotFound; EngineFailed where a canary
    cannot be made.
    """
    wanted = [newest_certified(settings.repository, name, target) for name in models] or [
        *catalogue(settings.repository, target)[0].values()
    ]
    if not wanted:
        raise CertificateRefused(f"{settings.repository}: no certified model", hint="run `lockstep convert` first")
    asked = [(canary_of(b.version_dir, settings, target), str(b.version)) for b in wanted]
    return asyncio.run(_ask(asked, url, timeout_s))


async def _ask(asked: Sequence[tuple[Canary, str]], url: str, timeout_s: float) -> dict[str, str]:
    adapter: Any = importlib.import_module("serving.adapters.triton")
    server = adapter.TritonServer(url)
    try:
        wrong = await asyncio.gather(*(_one(server, canary, version, timeout_s) for canary, version in asked))
    finally:
        await server.close()
    return {canary.model_name: text for (canary, _), text in zip(asked, wrong, strict=True)}


async def _one(server: Any, canary: Canary, version: str, timeout_s: float) -> str:
    try:
        reply = await server.infer(replace(canary.request(), model_version=version), timeout_s)
    except ServingError as error:
        return f"{error.code}: {error}"
    return canary.verdict(reply.tensors)
