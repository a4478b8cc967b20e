"""The manifest is read strictly: a wrong entry names package and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.importers.manifest import MANIFEST, read_manifest
from serving.errors import ImportFailed

DIGEST = "a" * 64
GOOD = f"""packages:
  p:
    source: pypi
    version: '1'
    licence: MIT
    archive_sha256: {DIGEST}
    files:
      f: {DIGEST}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "manifest.yaml"
    path.write_text(text, "utf-8")
    return path


def test_good_entry_is_read(tmp_path: Path) -> None:
    package = read_manifest(write(tmp_path, GOOD))["p"]
    assert (package.version, package.files["f"], package.archive_sha256) == ("1", DIGEST, DIGEST)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("source: pypi", "source: hub", "source"),
        (f"f: {DIGEST}", "f: abc", "64 hex digits"),
        (f"    archive_sha256: {DIGEST}\n", "", "archive_sha256"),
        ("f: a", "../f: a", "inside the package"),
        ("f: a", "/f: a", "inside the package"),
        ("licence: MIT", "license: MIT", "unknown keys ['license'], missing keys ['licence']"),
        ("packages:", "things:", "key `packages`"),
        ("packages:", "packages: [", "cannot be read as YAML"),
    ],
)
def test_wrong_entry_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ImportFailed) as caught:
        read_manifest(write(tmp_path, GOOD.replace(old, new, 1)))
    assert said in str(caught.value)


def test_ours_names_licences_and_no_address() -> None:
    packages = read_manifest()
    assert all(package.licence for package in packages.values())
    assert "://" not in MANIFEST.read_text("utf-8")
