"""The docs name what exists: every spec key, every setting, every link target."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serving.config import Settings
from serving.spec import (
    CheckpointSpec,
    ConstantsSpec,
    ExpectSpec,
    ModelSpec,
    ParitySpec,
    PreprocessSpec,
    ServingSpec,
    SoundSpec,
    StateSpec,
)
from serving.tasks.audio import AudioOptions
from serving.tasks.classification import ClassificationOptions
from serving.tasks.detection import DetectionOptions

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("model_repository/*.md")])
SPECS = (
    ModelSpec,
    CheckpointSpec,
    PreprocessSpec,
    ParitySpec,
    ServingSpec,
    ExpectSpec,
    ConstantsSpec,
    SoundSpec,
    StateSpec,
)
OPTIONS = (AudioOptions, ClassificationOptions, DetectionOptions)


@pytest.mark.parametrize("kind", [*SPECS, *OPTIONS], ids=lambda kind: kind.__name__)
def test_every_key_of_the_yaml_is_documented(kind: type) -> None:
    text = (ROOT / "docs" / "model-yaml.md").read_text()
    missing = [name for name in kind.model_fields if not re.search(rf"`{name}`|\b{name}:", text)]
    assert missing == []


def test_every_setting_is_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    assert [name for name in Settings.model_fields if f"`{name}`" not in text] == []
    named = set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))
    assert named == set(Settings.model_fields), "a documented setting that does not exist misleads"


@pytest.mark.parametrize("path", DOCS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    broken = [t for t in targets if not t.startswith(("http", "mailto:")) and not (path.parent / t).exists()]
    assert broken == []


def test_every_make_target_in_the_docs_exists() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {m for path in DOCS for m in re.findall(r"`make ([a-z][a-z-]*)", path.read_text())}
    assert named <= targets, named - targets
