"""`evaluate --runtime checkpoint` works in the converter's folder of the model, so it takes the converter's lock."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from converters.publish import model_lock
from serving.cli import scored
from serving.config import Settings
from serving.errors import ConversionBusy


def test_it_waits_for_no_converter_and_works_beside_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = SimpleNamespace(content_sha256="a" * 64)
    monkeypatch.setattr("converters.certify.find_spec", lambda name: tmp_path / "m.yaml")
    monkeypatch.setattr("converters.sources.gather", lambda *arguments: sources)
    monkeypatch.setattr("converters.sources.of_pictures", lambda *arguments: sources)
    settings = Settings(repository=tmp_path / "repository", cache_dir=tmp_path / "cache")
    bundle: Any = SimpleNamespace(name="m")
    ask = scored._checkpoint(settings, bundle)
    with model_lock(settings.repository, "m"), pytest.raises(ConversionBusy):
        next(iter(ask([], [])))
    assert not (tmp_path / "cache").exists(), "nothing was begun in the converter's folder"
