"""Fixtures of the importer tests: real imports share the project's cache; unreachable packages are a named skip."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.importers import ImportedModel, import_model
from serving.errors import ImportFailed

CACHE = Path(__file__).resolve().parents[3] / ".cache" / "lockstep"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small networks gain nothing from more, and spinning threads are slow on a busy machine."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def imported() -> Callable[[str], ImportedModel]:
    """Import a model for real. Offline is a skip with the reason, and a failure under FAIL_WITHOUT=opencv-doc."""

    def bring(name: str) -> ImportedModel:
        try:
            return import_model(name, CACHE, print)
        except ImportFailed as error:
            if "cannot be reached" in str(error) and "opencv-doc" not in os.environ.get("FAIL_WITHOUT", ""):
                pytest.skip(f"skipped: {name}: {error}")
            raise

    return bring
