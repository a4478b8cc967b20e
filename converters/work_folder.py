"""Where a conversion works: one folder a content hash, so that a second run goes on where the first was cut off.

A stage is finished once `stage.<name>.json` names its outputs with their SHA-256; it is reused while they still match.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.publish import storage, write_file
from serving.bundle import sha256_of

KEPT = 3  # folders of one model; older ones go


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """`<cache>/convert/<model>/<16 hex of the content>`."""

    path: Path

    @classmethod
    def of(cls, cache: Path, model: str, content_sha256: str) -> WorkFolder:
        """The folder of this content, made where it is new. Call it with the model's lock held."""
        home = cache.resolve() / "convert" / model
        path = home / content_sha256[:16]
        with storage(f"{path}: work folder"):
            path.mkdir(parents=True, exist_ok=True)
            path.touch()
            others = sorted((p for p in home.iterdir() if p.is_dir() and p != path), key=lambda p: p.stat().st_mtime)
            for old in others[: -(KEPT - 1)]:
                shutil.rmtree(old)
        return cls(path)

    def stage(
        self,
        name: str,
        outputs: Sequence[str],
        make: Callable[[], Mapping[str, Any]],
        progress: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        """What `make` says about the files it wrote (`outputs`: names or globs), or what an earlier run said.

        `make`'s value is JSON and is kept. An error of `make` leaves the stage unfinished.
        """
        record = self.path / f"stage.{name}.json"
        kept = self._kept(record)
        if kept is not None:
            if progress:
                progress(f"{name}: reused from an earlier run")
            return kept
        record.unlink(missing_ok=True)
        value = dict(make())
        paths = sorted({p for pattern in outputs for p in self.path.glob(pattern)})
        files = {str(p.relative_to(self.path)): sha256_of(p) for p in paths}
        write_file(record, json.dumps({"files": files, "value": value}).encode())
        loaded: dict[str, Any] = json.loads(record.read_bytes())["value"]
        return loaded

    def _kept(self, record: Path) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError, KeyError):
            document = json.loads(record.read_bytes())
            files: Mapping[str, str] = document["files"]
            if all(sha256_of(self.path / name) == digest for name, digest in files.items()):
                value: dict[str, Any] = document["value"]
                return value
        return None
