"""The two sound models, converted once a session through the whole flow; every defect is put into a copy of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import defect_data as data
import pytest
from defect_base import Base, base_of

from serving.config import Settings

HERE = Path(__file__).resolve().parent


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


@pytest.fixture(scope="session")
def colours(home: Path, settings: Settings) -> Base:
    """The classifier, converted."""
    return base_of(home / "colours.yaml", settings)


@pytest.fixture(scope="session")
def spots(home: Path, settings: Settings) -> Base:
    """The detector, converted."""
    return base_of(home / "spots.yaml", settings)
