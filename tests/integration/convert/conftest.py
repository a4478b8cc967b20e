"""`digits` converted once for these tests, with few samples."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from converters.main import ConvertResult, convert
from serving.config import Settings

MODELS = Path(__file__).resolve().parents[3] / "models"
LIMIT = 34


@dataclass
class Lines:
    """Progress lines, kept."""

    told: list[str] = field(default_factory=list)

    def __call__(self, line: str) -> None:
        self.told.append(line)

    def any(self, words: str) -> bool:
        return any(words in line for line in self.told)


@dataclass(frozen=True)
class Converted:
    """The first conversion, with what it said."""

    settings: Settings
    spec_path: Path
    result: ConvertResult
    lines: Lines


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


def visible(repository: Path) -> list[str]:
    """What is published: every file but locks and what Python caches."""
    hidden = (".locks", "__pycache__")
    files = (p.relative_to(repository) for p in repository.rglob("*") if p.is_file())
    return sorted(str(p) for p in files if not any(word in p.parts for word in hidden))
