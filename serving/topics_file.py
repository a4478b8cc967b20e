"""deploy/kafka/topics.yaml, strictly read: an unknown key, a topic too many or too few is an error with its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.errors import TopicsInvalid
from serving.records import TOPICS


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Load(_Strict):
    """What the system is sized for."""

    sources: int = Field(8, ge=1)
    fps: float = Field(30, gt=0)
    frame_kb: float = Field(60, gt=0)
    result_kb: float = Field(2, gt=0)
    pipelines: int = Field(1, ge=1)
    workers_max: int = Field(8, ge=1)


class Profile(_Strict):
    """How many copies, and how many must have a record before it is acknowledged."""

    replication: int = Field(ge=1, le=9)
    min_insync: int = Field(ge=1, le=9)


class Topic(_Strict):
    """One topic. retention: the name of a setting in seconds."""

    partitions: int = Field(ge=1, le=10_000)
    retention: Literal["", "retention_frames_s", "retention_results_s", "retention_dead_letters_s"] = ""
    settings: dict[str, str | int | float | bool] = Field(default_factory=dict)


class TopicsFile(_Strict):
    """The whole file."""

    version: Literal[1]
    load: Load = Load()
    profiles: dict[str, Profile]
    topics: dict[str, Topic]

    @classmethod
    def load_file(cls, path: Path) -> TopicsFile:
        """Read and check the form. Raises TopicsInvalid."""
        try:
            value = yaml.safe_load(path.read_text("utf-8"))
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise TopicsInvalid(f"{path}: {where}: {first['msg']}, got {str(first.get('input'))[:60]!r}") from error
        except (OSError, yaml.YAMLError) as error:
            raise TopicsInvalid(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error


def read_topics(path: Path, alike: Sequence[str]) -> TopicsFile:
    """Read and check what holds for every cluster. Raises TopicsInvalid with the key."""
    file = TopicsFile.load_file(path)
    missing, unknown = sorted(set(TOPICS) - set(file.topics)), sorted(set(file.topics) - set(TOPICS))
    if missing or unknown:
        raise TopicsInvalid(f"{path}: topics: expected {', '.join(TOPICS)}; missing {missing}, unknown {unknown}")
    counts = {name: file.topics[name].partitions for name in alike}
    if len(set(counts.values())) > 1:
        raise TopicsInvalid(
            f"{path}: {', '.join(alike)} need one number of partitions, as a source has the same number in all of them;"
            f" got {counts}"
        )
    for name, profile in file.profiles.items():
        if profile.min_insync > profile.replication:
            raise TopicsInvalid(f"{path}: profiles.{name}: min_insync is above replication: nothing could be written")
    return file
