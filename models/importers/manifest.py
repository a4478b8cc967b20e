"""`models/manifest.yaml`: which file of which public package, by name, version and SHA-256. No addresses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import yaml

from serving.errors import ImportFailed

MANIFEST = Path(__file__).resolve().parents[1] / "manifest.yaml"
Source = Literal["pypi", "pypi_sdist", "npm", "debian", "installed"]
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_KEYS = {"source", "version", "archive_sha256", "licence", "prefix", "files"}


@dataclass(frozen=True, slots=True)
class Package:
    """One package of the manifest.

    `files` maps a path inside the package (without `prefix`) to its SHA-256. `archive_sha256` is that of the
    downloaded archive, empty where the files alone decide (Debian rebuilds, packages that are installed already).
    """

    name: str
    source: Source
    version: str
    licence: str
    files: Mapping[str, str]
    archive_sha256: str = ""
    prefix: str = ""

    def __post_init__(self) -> None:
        where = f"manifest, package {self.name}"
        if self.source not in get_args(Source):
            raise ImportFailed(f"{where}: source: expected one of {get_args(Source)}, got {self.source!r}")
        if self.source in ("pypi", "pypi_sdist", "npm") and not self.archive_sha256:
            raise ImportFailed(f"{where}: archive_sha256: a {self.source} archive has a fixed hash, got none")
        for what, value in (("archive_sha256", self.archive_sha256 or "0" * 64), *self.files.items()):
            if not _SHA256.match(value):
                raise ImportFailed(f"{where}: {what}: expected 64 hex digits of SHA-256, got {value!r}")
        for path in self.files:
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ImportFailed(f"{where}: {path}: expected a path inside the package")
        if not self.files:
            raise ImportFailed(f"{where}: files: expected at least one")


def read_manifest(path: Path = MANIFEST) -> dict[str, Package]:
    """All packages by name. Raises ImportFailed naming package and key."""
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ImportFailed(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("packages"), dict):
        raise ImportFailed(f"{path}: expected a mapping with the key `packages`")
    return {name: _package(name, entry) for name, entry in tree["packages"].items()}


def _package(name: str, entry: Any) -> Package:
    if not isinstance(entry, dict):
        raise ImportFailed(f"manifest, package {name}: expected a mapping, got {type(entry).__name__}")
    unknown = set(entry) - _KEYS
    missing = {"source", "version", "licence", "files"} - set(entry)
    if unknown or missing:
        raise ImportFailed(f"manifest, package {name}: unknown keys {sorted(unknown)}, missing keys {sorted(missing)}")
    return Package(
        name=name,
        source=entry["source"],
        version=str(entry["version"]),
        licence=str(entry["licence"]),
        files={str(path): str(digest) for path, digest in entry["files"].items()},
        archive_sha256=str(entry.get("archive_sha256", "")),
        prefix=str(entry.get("prefix", "")),
    )
