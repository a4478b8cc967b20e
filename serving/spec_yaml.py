"""A YAML as values, and as the tree that knows each key's line. Keys given twice are refused: PyYAML keeps the last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from serving.errors import SpecInvalid

Tree = yaml.Node | None
Where = tuple[str | int, ...]


def read_yaml(path: Path) -> tuple[Tree, Any]:
    """The composed tree and the values of a file. Raises SpecInvalid: unreadable, no YAML, or a key given twice."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise SpecInvalid(f"{path}: cannot be read: {error.strerror}", hint="give the path of a model YAML") from error
    except UnicodeDecodeError as error:
        raise SpecInvalid(f"{path}: expected UTF-8 text, byte {error.start} is not") from error
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_twice(path, tree)
        return tree, yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:
        # Scalars that only look like a date or a number (2024-13-01) raise what Python's own types raise.
        raise SpecInvalid(f"{path}: not YAML: {' '.join(str(error).split())}") from error


def line_of(node: Tree, where: Sequence[str | int]) -> int:
    """The line (from 1) of the key or item at `where`, or of the last part of it that is there."""
    line = node.start_mark.line + 1 if node else 1
    for part in where:
        if isinstance(node, yaml.MappingNode):
            pairs = {str(key.value): (key, value) for key, value in node.value}
            if str(part) not in pairs:
                break
            key, node = pairs[str(part)]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _refuse_twice(path: Path, tree: Tree) -> None:
    """Raise SpecInvalid, with both lines, where a mapping has a key twice."""
    waiting: list[tuple[Any, Where]] = [(tree, ())]
    seen: set[int] = set()  # an alias leads to a node again, perhaps to the one that it stands in
    while waiting:
        node, where = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(item, (*where, index)) for index, item in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            _refuse_twice_in(path, node, where)
            waiting += [(value, (*where, str(key.value))) for key, value in node.value]


def _refuse_twice_in(path: Path, node: yaml.MappingNode, where: Where) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        line, name = key.start_mark.line + 1, (key.tag, key.value)
        if name in lines:
            what = f"{path}:{line}: {'.'.join(map(str, (*where, key.value)))}"
            raise SpecInvalid(
                f"{what}: given twice, before in line {lines[name]}: only the last would count",
                hint="put both into one, or remove one of them",
            )
        lines[name] = line
