"""The two sound models, converted once a session through the whole flow; every defect is put into a copy of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import defect_data as data
import pytest
import yaml

from converters.artifacts import Computed, artifact_files, computed_by_checkpoint
from converters.main import ConvertResult, convert, prove
from converters.parity import first_failed
from converters.proof import Proof
from converters.samples import prepare_all
from converters.sources import Sources, gather
from converters.work_folder import WorkFolder
from serving.config import Settings

HERE = Path(__file__).resolve().parent


def quiet(line: str) -> None:
    """Progress that nobody reads."""


@dataclass(frozen=True)
class Base:
    """A sound model: its YAML, what its conversion gave, and the parts that rows are made from."""

    spec_path: Path
    settings: Settings
    result: ConvertResult
    sources: Sources
    computed: Computed
    work: WorkFolder

    @property
    def value(self) -> dict[str, Any]:
        """The YAML as written."""
        loaded: dict[str, Any] = yaml.safe_load(self.spec_path.read_text("utf-8"))
        return loaded

    def changed_yaml(self, name: str, changes: Mapping[str, Any]) -> Path:
        """A copy of the YAML beside it with some keys changed (`preprocess.colour`: a path)."""
        value = self.value
        for path, new in changes.items():
            *folders, last = path.split(".")
            place = value
            for folder in folders:
                place = place.setdefault(folder, {})
            if new is None:
                place.pop(last, None)
            else:
                place[last] = new
        return data.write_spec(self.spec_path.with_name(f"{self.sources.spec.name}-{name}.yaml"), value)

    def failing_stage(self, spec_path: Path, folder: Path | None = None) -> tuple[str, str]:
        """First failing stage of the offline rows for another YAML or for other artifacts, and its reason.

        The checkpoint's own answers are those of the sound run: neither defect touches them.
        """
        sources = gather(spec_path, self.settings.cache_dir, None, "cpu", quiet)
        assert sources.spec.preprocess is not None
        computed = replace(self.computed, prepared=prepare_all(sources.samples, sources.spec.preprocess))
        work = self.work if folder is None else WorkFolder(folder)
        return stage_of(prove(sources, computed, work, quiet))

    def copied_artifacts(self, folder: Path) -> Path:
        """The built files in a folder of their own, to be changed."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in artifact_files(self.work.path):
            shutil.copy(path, folder / path.name)
        return folder


def stage_of(proof: Proof) -> tuple[str, str]:
    """The first failing stage and why; '' where all is well."""
    row = first_failed(proof.rows)
    return (row.stage, row.reason) if row else ("", "")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: two YAMLs, their checkpoints, samples and training code."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("defect_nets.py", "defect_training.py"):
        shutil.copy(HERE / name, folder)
    data.write_colours(folder)
    data.write_spots(folder)
    return folder


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A repository and a cache of this session."""
    folder = tmp_path_factory.mktemp("place")
    return Settings(repository=folder / "repository", cache_dir=folder / "cache")


@pytest.fixture(scope="session")
def offline(settings: Settings) -> Settings:
    """The same on a machine without Triton: for defects that are found before or without a server."""
    return settings.model_copy(update={"triton_home": settings.cache_dir / "no-triton"})


def _base(spec_path: Path, settings: Settings) -> Base:
    result = convert(spec_path, settings=settings, progress=quiet)
    sources = gather(spec_path, settings.cache_dir, None, "cpu", quiet)
    content = result.certificate["content_sha256"]
    work = WorkFolder.of(settings.cache_dir, sources.spec.name, content)
    return Base(spec_path, settings, result, sources, computed_by_checkpoint(sources, work, quiet), work)


@pytest.fixture(scope="session")
def colours(home: Path, settings: Settings) -> Base:
    """The classifier, converted."""
    return _base(home / "colours.yaml", settings)


@pytest.fixture(scope="session")
def spots(home: Path, settings: Settings) -> Base:
    """The detector, converted."""
    return _base(home / "spots.yaml", settings)
