"""What `lockstep tune` chose for a version on this machine: `tuning.json` beside the engine."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.errors import SpecInvalid

TUNING = "tuning.json"


class TuningRow(BaseModel):
    """One measured setting. `seconds` is the measured window; times are per request, in milliseconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    instances: int = Field(ge=1)
    threads: int = Field(ge=1)
    max_batch: int = Field(ge=1)
    clients: int = Field(ge=1)
    requests_per_s: float = Field(ge=0)
    p50_ms: float = Field(ge=0)
    p95_ms: float = Field(ge=0)
    alone_p50_ms: float = Field(0.0, ge=0, description="of one client alone")
    errors: int = Field(0, ge=0)


class Tuning(BaseModel):
    """The choice and the table it was made from. It holds for a machine with `cores` cores of `cpu`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    instances: int = Field(ge=1, le=64)
    threads: int = Field(ge=1, le=64)
    max_batch: int = Field(ge=1, le=1024)
    cores: int = Field(ge=1)
    cpu: str = ""
    peak_rss_bytes: int = Field(0, ge=0, description="of one instance, 0: not measured")
    why: str = ""
    table: tuple[TuningRow, ...] = ()

    def write(self, version_dir: Path) -> Path:
        """Write tuning.json whole or not at all."""
        path = version_dir / TUNING
        fresh = path.with_name(TUNING + ".new")
        fresh.write_text(self.model_dump_json(indent=1) + "\n", "utf-8")
        fresh.replace(path)
        return path


def read_tuning(version_dir: Path) -> Tuning | None:
    """The recorded choice, None where the version was never tuned. Raises SpecInvalid for a broken file."""
    path = version_dir / TUNING
    if not path.is_file():
        return None
    try:
        return Tuning.model_validate(json.loads(path.read_bytes()))
    except (ValueError, ValidationError) as error:
        text = " ".join(str(error).split())[:200]
        raise SpecInvalid(f"{path}: {text}", hint="remove it or run `lockstep tune` again") from error
