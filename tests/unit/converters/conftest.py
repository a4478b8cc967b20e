"""A tiny checkpoint in every format, and the job that loads it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_spec import tiny_spec

from converters.job import ChildJob

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _nets_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(HERE), *sys.path])


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., ChildJob]:
    """job(checkpoint, **spec changes) -> ChildJob in an empty folder."""

    def make(path: Path | None = None, /, **changes: Any) -> ChildJob:
        folder = tmp_path / "job"
        folder.mkdir(exist_ok=True)
        return ChildJob("convert", tiny_spec(**changes), folder, HERE, checkpoint=path)

    return make
