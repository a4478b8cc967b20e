"""`digits` converted once for these tests, with few samples."""

from __future__ import annotations

import shutil

import pytest
from convert_support import LIMIT, MODELS, Converted, Lines

from converters.main import convert
from serving.config import Settings


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """models/digits.yaml as a user's own copy, through the whole flow."""
    folder = tmp_path_factory.mktemp("convert")
    settings = Settings(repository=folder / "repository", cache_dir=folder / "cache")
    lines = Lines()
    spec_path = folder / "digits.yaml"
    shutil.copy(MODELS / "digits.yaml", spec_path)
    result = convert(spec_path, settings=settings, limit=LIMIT, progress=lines)
    return Converted(settings, spec_path, result, lines)
