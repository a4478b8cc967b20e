"""What the parent asks of the child, within which limits, and what the child says back: values that are also JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from serving.errors import ConversionError
from serving.spec import ModelSpec

REPORT = "report.json"
RAW_ONNX = "model.raw.onnx"
REFERENCE = "reference.npz"
TRAINING = "training.npz"
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What the child may use. memory: private memory in bytes; file: largest file it may write."""

    wall_seconds: float = 1200.0
    cpu_seconds: int = 2400
    memory_bytes: int = 12 * 1024 * MIB
    file_bytes: int = 4 * 1024 * MIB
    open_files: int = 512
    threads: int = 2

    def __post_init__(self) -> None:
        for name in ("wall_seconds", "cpu_seconds", "memory_bytes", "file_bytes", "open_files", "threads"):
            if getattr(self, name) <= 0:
                raise ValueError(f"Limits.{name}: expected more than 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class ChildJob:
    """One job of the limited child.

    folder: where it reads and writes; checkpoint: the file (None with action `check`: random weights); spec_folder: put
    on the import path, as are `import_paths`, for the factory and the training side; inputs: npz of our samples
    (arrays.save_samples), None for a job without eager outputs; pictures: encoded files for the training side; cache:
    where importers keep packages, which the functions that read constants out of them look in (None: the setting).
    """

    action: Literal["convert", "check"]
    spec: ModelSpec
    folder: Path
    spec_folder: Path
    checkpoint: Path | None = None
    inputs: Path | None = None
    pictures: tuple[Path, ...] = ()
    import_paths: tuple[Path, ...] = ()
    batch: int = 8
    seed: int = 0
    cache: Path | None = None

    @property
    def reference_batch(self) -> int:
        """Samples the checkpoint answers at once: a network whose batch is fixed to 1 takes no more."""
        return min(self.batch, self.spec.batch.max)

    def to_json(self) -> str:
        """The job as JSON text."""
        value: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        value["spec"] = self.spec.model_dump(mode="json")
        for name in ("pictures", "import_paths"):
            value[name] = [str(path) for path in value[name]]
        for name in ("folder", "spec_folder", "checkpoint", "inputs", "cache"):
            value[name] = None if value[name] is None else str(value[name])
        return json.dumps(value)

    @classmethod
    def from_json(cls, text: str) -> ChildJob:
        """Read what `to_json` wrote."""
        value = json.loads(text)
        value["spec"] = ModelSpec.model_validate(value["spec"])
        for name in ("pictures", "import_paths"):
            value[name] = tuple(Path(path) for path in value[name])
        for name in ("folder", "spec_folder", "checkpoint", "inputs", "cache"):
            value[name] = None if value[name] is None else Path(value[name])
        return cls(**value)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The strict load, by key. Lists hold every difference found; `allowed` those the spec names."""

    format: str
    sha256: str
    keys: int = 0
    parameters: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()
    dtype_changed: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChildReport:
    """What the child found and wrote into its folder (file names of this module's constants).

    exporter: dynamo, torchscript or none (ONNX passes through); isolation: what held the child, in words;
    constants and source_labels: what the spec's constant functions gave; training_pixels: whether training.npz holds
    pixels; training_tensors: whether the eager outputs are those of the training side's own tensors.
    """

    load: LoadReport
    exporter: str = "none"
    samples: int = 0
    training_pixels: bool = False
    training_tensors: bool = False
    constants: Any = None
    source_labels: tuple[str, ...] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    isolation: Mapping[str, str] = field(default_factory=dict)
    peak_rss_bytes: int = 0
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> ChildReport:
        """Read what `to_json` wrote. Raises ConversionError for another layout."""
        try:
            value = json.loads(text)
            load: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.pop("load").items()}
            for name in ("source_labels", "notes"):
                value[name] = None if value[name] is None else tuple(value[name])
            return cls(load=LoadReport(**load), **value)
        except (TypeError, KeyError, ValueError) as error:
            raise ConversionError(f"the child's report is not readable: {error}") from error
