"""What a TorchScript or torch.export archive may hold. Both are zip files; their loaders trust more than we do.

torch.export.load unpickles opaque objects, loads compiled libraries (data/aotinductor) and evaluates the text of shape
expressions, so an archive that holds any of these, or such a text out of the ordinary, is refused before it is loaded.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serving.errors import CheckpointRefused

_MAX_BYTES = 8 << 30
_MAX_RATIO = 200
_MAX_ENTRIES = 20_000
# Functions that torch writes into shape expressions (torch.utils._sympy.functions and sympy's own).
_FUNCTIONS = {
    *("FloorDiv", "Mod", "PythonMod", "ModularIndexing", "CleanDiv", "CeilDiv", "IntTrueDiv", "FloatTrueDiv"),
    *("Max", "Min", "Where", "PowByNatural", "FloatPow", "LShift", "RShift", "Identity", "ToFloat", "Abs"),
    *("FloorToInt", "CeilToInt", "TruncToInt", "RoundToInt", "RoundDecimal", "TruncToFloat", "floor", "ceiling"),
    *("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "Piecewise", "ExprCondPair", "sqrt"),
    *("Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow"),
}
_QUOTED_NAME = re.compile(r"'\w+'")
_PLAIN = re.compile(r"^[\w\s+\-*/%(),.<>=!&|~]*$")


def check_script_archive(path: Path) -> None:
    """A TorchScript file must be a sane zip; its loader reads code of its own language and no Python pickles."""
    with _opened(path, "TorchScript") as archive:
        if not any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise CheckpointRefused(
                f"{path.name}: a zip file without TorchScript's constants.pkl", hint="see checkpoint.format"
            )


def check_export_archive(path: Path) -> None:
    """Refuse custom and opaque objects, compiled libraries and odd shape expressions."""
    with _opened(path, "torch.export") as archive:
        for entry in archive.infolist():
            parts = entry.filename.split("/")
            if "aotinductor" in parts:
                raise CheckpointRefused(f"{path.name}: {entry.filename}: compiled code is not taken from a checkpoint")
            if parts[-1].startswith(("custom_obj", "opaque_obj")):
                raise CheckpointRefused(f"{path.name}: {entry.filename}: an object of a class of its own")
            if entry.filename.endswith(".json"):
                _check_json(path.name, entry.filename, archive.read(entry))


def _opened(path: Path, what: str) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointRefused(f"{path.name}: not a {what} archive: {error}", hint="see checkpoint.format") from error
    entries = archive.infolist()
    size, packed = sum(e.file_size for e in entries), sum(e.compress_size for e in entries)
    if len(entries) > _MAX_ENTRIES or size > _MAX_BYTES or size > _MAX_RATIO * max(packed, 1 << 20):
        archive.close()
        raise CheckpointRefused(f"{path.name}: {len(entries)} entries, {packed} bytes that become {size}: refused")
    return archive


def _check_json(archive: str, name: str, data: bytes) -> None:
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointRefused(f"{archive}: {name}: not JSON: {error}") from error
    for key, written in _expressions(tree):
        text = _QUOTED_NAME.sub("name", written)
        calls = set(re.findall(r"([A-Za-z_]\w*)\s*\(", text))
        names = set(re.findall(r"[A-Za-z_]\w*", written))
        if (
            not _PLAIN.match(text)
            or any("__" in name for name in names)
            or re.search(r"\.\s*[A-Za-z_]", text)
            or calls - _FUNCTIONS
        ):
            raise CheckpointRefused(f"{archive}: {name}: {key} is no shape expression: {written[:80]!r}")
        if key == "path_name" and written.startswith(("custom_obj", "opaque_obj")):
            raise CheckpointRefused(f"{archive}: {name}: an object of a class of its own: {written[:80]!r}")


def _expressions(tree: Any) -> Iterator[tuple[str, str]]:
    """Every text that the loader evaluates or takes as a file name, without recursion."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            for key, value in node.items():
                if key in ("expr_str", "path_name") and isinstance(value, str):
                    yield key, value
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
