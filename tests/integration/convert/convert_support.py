"""What the conversion tests share: the model that is converted, progress that is kept, what is published."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from converters.main import ConvertResult
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


def visible(repository: Path) -> list[str]:
    """What is published: every file but locks and what Python caches."""
    hidden = (".locks", "__pycache__")
    files = (p.relative_to(repository) for p in repository.rglob("*") if p.is_file())
    return sorted(str(p) for p in files if not any(word in p.parts for word in hidden))
