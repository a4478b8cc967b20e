"""The TUD sequences (MOTChallenge 2015) as the package motmetrics ships them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from models.importers.tracking_data import tud_file
from serving.errors import ImportFailed

CACHE = Path(__file__).resolve().parents[3] / ".cache" / "lockstep"


@pytest.fixture(scope="session")
def tud() -> Callable[[str], Path]:
    """A file such as `TUD-Campus/gt.txt`; offline is a skip with the reason."""

    def path(name: str) -> Path:
        try:
            return tud_file(name, CACHE, print)
        except ImportFailed as error:
            if "cannot be reached" in str(error) and "opencv-doc" not in os.environ.get("FAIL_WITHOUT", ""):
                pytest.skip(f"skipped: motmetrics: {error}")
            raise

    return path
