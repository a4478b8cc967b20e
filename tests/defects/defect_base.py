"""What the defect tests share: a sound model, copies of it, and the stage at which a changed one fails."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import defect_data as data
import yaml

from converters.artifacts import Computed, artifact_files, computed_by_checkpoint
from converters.main import ConvertResult, convert, prove
from converters.parity import first_failed
from converters.proof import Proof
from converters.samples import prepare_all
from converters.sources import Sources, gather
from converters.work_folder import WorkFolder
from serving.config import Settings


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


def base_of(spec_path: Path, settings: Settings) -> Base:
    """Convert a YAML; the sound run that defects are compared with."""
    result = convert(spec_path, settings=settings, progress=quiet)
    sources = gather(spec_path, settings.cache_dir, None, "cpu", quiet)
    content = result.certificate["content_sha256"]
    work = WorkFolder.of(settings.cache_dir, sources.spec.name, content)
    return Base(spec_path, settings, result, sources, computed_by_checkpoint(sources, work, quiet), work)
