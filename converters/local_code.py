"""The code that a spec names (factory, training side, constants), told by the hashes of its files or by its version."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Iterable
from pathlib import Path

from serving.bundle import sha256_of

_ROOT = Path(__file__).resolve().parents[1]
# Of our own packages the file that is named counts; what else in them decides is part of every version's content.
_OURS = ("converters", "models", "serving")
_INSTALLED = ("site-packages", "dist-packages")
_IMPORT = re.compile(rb"^[ \t]*(?:from|import)[ \t]+([A-Za-z_][\w., \t]*)", re.MULTILINE)


def code_of(addresses: Iterable[str], folder: Path) -> list[tuple[str, str]]:
    """(file, SHA-256) and (distribution, version) of what the `package.module:function` addresses bring along.

    Code in `folder` (the YAML's), in this project or installed as an editable counts with every .py file of its
    top-level package, and of those beside it that it imports; other installed code by its distribution's version.
    """
    told: list[tuple[str, str]] = []
    for module in dict.fromkeys(address.partition(":")[0] for address in addresses):
        top = module.partition(".")[0]
        homes = [home for home in dict.fromkeys((folder, _ROOT, _home_of(top))) if home and home.name not in _INSTALLED]
        files = [
            (os.fspath(path.relative_to(home)), sha256_of(path))
            for home in homes
            for path in (_named(module) if home == _ROOT and top in _OURS else _reached(top, home))
        ]
        told += files or _versions(top)
    return told


def _named(module: str) -> list[Path]:
    relative = Path(*module.split("."))
    return [p for p in (_ROOT / relative.with_suffix(".py"), _ROOT / relative / "__init__.py") if p.is_file()]


def _reached(top: str, home: Path) -> list[Path]:
    """Every file of the package (or module) `top` of `home`, and of those in `home` that are imported from there."""
    found: dict[Path, None] = {}
    ahead, seen = [top], {top}
    while ahead:
        name = ahead.pop()
        for path in (home / f"{name}.py", *sorted((home / name).rglob("*.py"))):
            if path.is_file():
                found[path] = None
                fresh = _imported(path) - seen
                seen |= fresh
                ahead += sorted(fresh)
    return sorted(found)


def _imported(path: Path) -> set[str]:
    """Top-level names in import lines; a word too many is harmless, nothing of that name lies there."""
    parts = [part.split() for line in _IMPORT.findall(path.read_bytes()) for part in line.split(b",")]
    return {part[0].split(b".")[0].decode() for part in parts if part} - {""}


def _home_of(top: str) -> Path | None:
    """The folder that Python would import `top` from; nothing is imported for that."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or ()) or ([spec.origin] if spec.has_location and spec.origin else [])
    return Path(places[0]).resolve().parent if places else None


def _versions(top: str) -> list[tuple[str, str]]:
    names = sorted(set(importlib.metadata.packages_distributions().get(top, ())))
    return [(name, importlib.metadata.version(name)) for name in names]
